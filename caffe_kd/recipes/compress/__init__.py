"""A trained net, pruned, distilled and quantised by one command."""

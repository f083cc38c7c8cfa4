"""The features of the training loop, one file each. ``../features.py`` lists them."""

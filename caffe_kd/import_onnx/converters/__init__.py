"""The functions that convert nodes, by kind; importing this registers them all."""

from . import arithmetic, neurons, normalization, pools, recurrent, shapes, weighted

__all__ = ["arithmetic", "neurons", "normalization", "pools", "recurrent", "shapes", "weighted"]

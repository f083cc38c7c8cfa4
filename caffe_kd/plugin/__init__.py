"""Distillation for BVLC Caffe: this package's layers as Python layers of pycaffe.

A Caffe that was built with ``WITH_PYTHON_LAYER`` finds them as::

    layer {
      name: "distilling_loss"  type: "Python"
      bottom: "ip2"  bottom: "teacher/ip2"  bottom: "label"  top: "distilling_loss"
      loss_weight: 1            # a Python layer is no loss without it
      propagate_down: true  propagate_down: false  propagate_down: false
      python_param {
        module: "caffe_kd.plugin"  layer: "DistillingLoss"
        param_str: "temperature: 4 alpha: 0.9"
      }
    }

``param_str`` holds the settings as in prototxt, ``name: value``, without blocks, or as a dict,
``{'name': value}``; missing ones have the defaults of the layer type of the same name.
``compose_kd -for caffe`` writes such layers.

The folder is self-contained: it needs numpy, and Python 3.6 or newer. Without an installed
caffe_kd, copy it as ``caffe_kd/plugin`` (without an ``__init__.py`` in ``caffe_kd``) into a folder
on PYTHONPATH.
"""

from .classes import ClassMap, TeacherEnsemble
from .features import (
    ABLoss,
    AttentionTransferLoss,
    FactorTransferLoss,
    FSPLoss,
    HintLoss,
    NSTLoss,
    VIDLoss,
)
from .logits import (
    DecoupledDistillingLoss,
    DistillingLoss,
    DISTLoss,
    KnowledgeDistillation,
    SoftmaxWithLoss,
    SoftmaxWithTemperature,
)
from .relations import (
    CorrelationCongruenceLoss,
    PKTLoss,
    RelationalAngleLoss,
    RelationalDistanceLoss,
    SampleGraphLoss,
    SimilarityPreservingLoss,
)

__all__ = [
    "ABLoss",
    "AttentionTransferLoss",
    "ClassMap",
    "CorrelationCongruenceLoss",
    "DISTLoss",
    "DecoupledDistillingLoss",
    "DistillingLoss",
    "FSPLoss",
    "FactorTransferLoss",
    "HintLoss",
    "KnowledgeDistillation",
    "NSTLoss",
    "PKTLoss",
    "RelationalAngleLoss",
    "RelationalDistanceLoss",
    "SampleGraphLoss",
    "SimilarityPreservingLoss",
    "SoftmaxWithLoss",
    "SoftmaxWithTemperature",
    "TeacherEnsemble",
    "VIDLoss",
]

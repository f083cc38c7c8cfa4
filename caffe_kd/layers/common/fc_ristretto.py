"""FcRistretto: an InnerProduct of few bits."""

from __future__ import annotations

from ..base import register
from ..shared.ristretto import RistrettoLayer
from .inner_product import InnerProduct


@register("FcRistretto", param="inner_product_param", origin="Ristretto")
class FcRistretto(RistrettoLayer, InnerProduct):
    """Multiply with few bits: an InnerProduct whose values and weights are rounded.

    In phase TEST what is read, weights, bias and tops are rounded; in TRAIN weights and bias alone,
    up or down at random (STOCHASTIC). Gradients pass the rounding as if it were not there. By
    ``quantization_param``:

    - DYNAMIC_FIXED_POINT: to multiples of ``2^-fl`` that ``bw`` bits can hold;
    - MINIFLOAT: to floating point of ``mant_bits`` and ``exp_bits``;
    - INTEGER_POWER_OF_2_WEIGHTS: weights to ``+-2^e``, values to fixed point, the bias not.

    Bottom: (leading axes..., K as any axes). Top: (leading axes..., num_output).
    Blobs: weight (num_output, K), or (K, num_output) with ``transpose``; bias (num_output).

    Raises:
        NetError: a width cannot be meant, and what InnerProduct refuses.

    Source: Ristretto, pmgysel/caffe. There the bottom itself is rounded, which other layers that
    read it see as well.

    Sample::

        layer {
          name: "fc8"
          type: "FcRistretto"
          bottom: "pool5"  # (2, 4, 3, 3)
          top: "fc8"  # (2, 10)
          inner_product_param { num_output: 10 weight_filler { type: "xavier" } }
          quantization_param { bw_layer_in: 8 fl_layer_in: 4 bw_params: 4 fl_params: 3 }
        }
    """

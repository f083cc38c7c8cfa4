"""ConvolutionRistretto: a Convolution of few bits."""

from __future__ import annotations

from ..base import register
from ..shared.ristretto import RistrettoLayer
from .convolution import Convolution


@register(
    "ConvolutionRistretto",
    param="convolution_param",
    bottoms=(1, None),
    tops=(1, None),
    origin="Ristretto",
)
class ConvolutionRistretto(RistrettoLayer, Convolution):
    """Convolve with few bits: a Convolution whose values and weights are rounded.

    In phase TEST what is read, weights, bias and tops are rounded; in TRAIN weights and bias alone,
    up or down at random (STOCHASTIC). Gradients pass the rounding as if it were not there. By
    ``quantization_param``:

    - DYNAMIC_FIXED_POINT: to multiples of ``2^-fl`` that ``bw`` bits can hold;
    - MINIFLOAT: to floating point of ``mant_bits`` and ``exp_bits``;
    - INTEGER_POWER_OF_2_WEIGHTS: weights to ``+-2^e``, values to fixed point, the bias not.

    Bottoms: (N, C, spatial axes...), all of one shape. Tops: (N, num_output, output sizes...).
    Blobs: weight (num_output, C / group, kernel...), bias (num_output).

    Raises:
        NetError: a width cannot be meant, and what Convolution refuses.

    Source: Ristretto, pmgysel/caffe. There the bottom itself is rounded, which other layers that
    read it see as well.

    Sample::

        layer {
          name: "conv1"
          type: "ConvolutionRistretto"
          bottom: "data"  # (2, 3, 8, 8)
          top: "conv1"  # (2, 4, 6, 6)
          convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: "msra" } }
          quantization_param { bw_layer_in: 8 fl_layer_in: 5 bw_params: 8 fl_params: 7 }
        }
    """

"""DeconvolutionRistretto: a Deconvolution of few bits."""

from __future__ import annotations

from ..base import register
from ..shared.ristretto import RistrettoLayer
from .deconvolution import Deconvolution


@register(
    "DeconvolutionRistretto",
    param="convolution_param",
    bottoms=(1, None),
    tops=(1, None),
    origin="Ristretto",
)
class DeconvolutionRistretto(RistrettoLayer, Deconvolution):
    """Enlarge with few bits: a Deconvolution whose values and weights are rounded.

    In phase TEST what is read, weights, bias and tops are rounded; in TRAIN weights and bias alone,
    up or down at random (STOCHASTIC). Gradients pass the rounding as if it were not there. By
    ``quantization_param``:

    - DYNAMIC_FIXED_POINT: to multiples of ``2^-fl`` that ``bw`` bits can hold;
    - MINIFLOAT: to floating point of ``mant_bits`` and ``exp_bits``;
    - INTEGER_POWER_OF_2_WEIGHTS: weights to ``+-2^e``, values to fixed point, the bias not.

    Bottoms: (N, C, spatial axes...), all of one shape. Tops: (N, num_output, larger axes...).
    Blobs: weight (C, num_output / group, kernel...), bias (num_output).

    Raises:
        NetError: a width cannot be meant, and what Deconvolution refuses.

    Source: Ristretto, pmgysel/caffe. There the bottom itself is rounded, which other layers that
    read it see as well.

    Sample::

        layer {
          name: "upscore"
          type: "DeconvolutionRistretto"
          bottom: "score"  # (2, 4, 8, 8)
          top: "upscore"  # (2, 4, 16, 16)
          convolution_param { num_output: 4 kernel_size: 2 stride: 2 }
          quantization_param { bw_params: 8 fl_params: 7 }
        }
    """

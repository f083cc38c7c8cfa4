"""HDF5Output: writes two blobs into an HDF5 file."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ...core.errors import DataError
from ..base import Layer, Shape, register

_NAMES = ("data", "label")
_MARK = "written_by"


@register("HDF5Output", param="hdf5_output_param", bottoms=2, tops=0)
class HDF5Output(Layer):
    """Write both bottoms to ``file_name``, as the datasets "data" and "label".

    Each pass appends its samples to the datasets. The first one creates the file, and after each
    the file is complete and closed, so that it can be read while the net is in use. An existing
    file is replaced only if such a layer wrote it, which an attribute records: a prototxt from
    elsewhere may name any file. ``caffe_kd time`` does not write it.

    Bottoms: data (N, ...) and label (N, ...), of at most 4 axes. The datasets have 4 axes, missing
    ones being 1: (samples, channels, height, width), float32.

    Raises:
        NetError: there is no file_name, the bottoms differ in N, or one has more than 4 axes.
        DataError: the file cannot be written, or exists and was written by something else.

    Source: Caffe's HDF5OutputLayer. There a second pass fails, since the datasets exist
    already, and the file is created when the net is built.

    Sample::

        layer {
          name: "write"
          type: "HDF5Output"
          bottom: "fc7"  # (2, 10)
          bottom: "label"  # (2)
          hdf5_output_param { file_name: "features.h5" }
        }
    """

    def setup(self, bottom_shapes: list[Shape]) -> None:
        if not self.param.file_name:
            self.fail("hdf5_output_param needs a file_name")
        self._path = Path(self.param.file_name)
        self._is_created = False
        for shape in bottom_shapes:
            self._of_four_axes(shape)
        self._check_batch_size(bottom_shapes)

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        return []

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        self._check_batch_size([tuple(bottom.shape) for bottom in bottoms])
        blobs = [
            bottom.detach().float().cpu().numpy().reshape(self._of_four_axes(bottom.shape))
            for bottom in bottoms
        ]
        if not self.context.writes_files:
            return ()
        if not self._is_created:
            self._check_existing()
            self.context.notify(f"Saving HDF5 file {self._path}")
        try:
            self._save(blobs)
        except OSError as error:
            raise DataError(
                f"layer '{self.name}' ({self.type}): cannot be written: {error}", str(self._path)
            ) from None
        return ()

    def _check_existing(self) -> None:
        """Refuse to replace a file that was not written by a layer of this type."""
        import h5py

        if not os.path.lexists(self._path):
            return
        is_ours = False
        if self._path.is_file() and h5py.is_hdf5(self._path):
            with contextlib.suppress(OSError), h5py.File(self._path, "r") as file:
                is_ours = file.attrs.get(_MARK) == self.type
        if not is_ours:
            raise DataError(
                f"layer '{self.name}' ({self.type}): would replace a file that was not written "
                "by such a layer. Remove it, or choose another file_name",
                str(self._path),
            )

    def _save(self, blobs: list[np.ndarray]) -> None:
        import h5py

        self._path.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(self._path, "r+" if self._is_created else "w") as file:
            named = dict(zip(_NAMES, blobs, strict=True))
            if self._is_created:
                self._append(file, named)
            else:
                file.attrs[_MARK] = self.type
                for name, blob in named.items():
                    file.create_dataset(name, data=blob, maxshape=(None, *blob.shape[1:]))
        self._is_created = True

    def _append(self, file: Any, blobs: dict[str, np.ndarray]) -> None:
        for name, blob in blobs.items():
            if file[name].shape[1:] != blob.shape[1:]:
                self.fail(
                    f"samples of '{name}' must keep their shape from pass to pass",
                    sample=blob.shape[1:],
                    before=file[name].shape[1:],
                )
        for name, blob in blobs.items():
            count = len(file[name])
            file[name].resize(count + len(blob), axis=0)
            file[name][count:] = blob

    def _check_batch_size(self, shapes: list[Shape]) -> None:
        data, label = (self._of_four_axes(shape)[0] for shape in shapes)
        if data != label:
            self.fail(
                "data blob and label blob must have the same batch size", data=data, label=label
            )

    def _of_four_axes(self, shape: Shape) -> Shape:
        if len(shape) > 4:
            self.fail("Cannot use legacy accessors on Blobs with > 4 axes", shape=tuple(shape))
        return (*shape, 1, 1, 1, 1)[:4]

"""The base of losses between a student's and its teacher's features."""

from __future__ import annotations

import math

from ..base import Layer, Shape


class PairLoss(Layer):
    """A loss of pairs of features: the student's bottoms, then as many of the teacher's.

    The teacher's get no gradient unless ``propagate_down`` asks for it.
    """

    is_loss = True
    constant_bottoms: tuple[int, ...] = (1,)

    def setup(self, bottom_shapes: list[Shape]) -> None:
        student, teacher = bottom_shapes[:2]
        self.check_batch_size(student, teacher)
        self.check(student, teacher)

    def check(self, student: Shape, teacher: Shape) -> None:
        """Fail if the shapes do not fit the loss."""

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        return [()]

    def check_batch_size(self, student: Shape, teacher: Shape) -> None:
        """Fail unless both are features of the same number of samples."""
        if len(student) < 2 or len(teacher) < 2:
            self.fail(
                "features must have at least 2 axes (N, ...)", student=student, teacher=teacher
            )
        if student[0] != teacher[0]:
            self.fail(
                "student and teacher must have the same number of samples",
                student=student,
                teacher=teacher,
            )

    def check_maps(self, *shapes: Shape) -> None:
        """Fail unless all have the shape of maps."""
        for shape in shapes:
            if len(shape) != 4:
                self.fail(
                    "needs maps of 4 axes (N, C, H, W), such as a Convolution's top", bottom=shape
                )

    def check_channels(self, student: Shape, teacher: Shape) -> None:
        """Fail unless both have as many channels."""
        if student[1] != teacher[1]:
            self.fail(
                "student and teacher must have the same number of channels. Put a 1x1 Convolution "
                f"with num_output {teacher[1]} on the student's",
                student=student,
                teacher=teacher,
            )

    def check_values(self, student: Shape, teacher: Shape) -> None:
        """Fail unless both have as many values per sample."""
        if math.prod(student) != math.prod(teacher):
            self.fail(
                "student and teacher must have the same number of values per sample. Put a "
                "regressor on the student's: a Convolution for maps, an InnerProduct for vectors",
                student=student,
                teacher=teacher,
            )

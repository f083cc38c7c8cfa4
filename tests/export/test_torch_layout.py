from __future__ import annotations

import ast

import pytest

from caffe_kd.export.torch_layout import statement

NAMES = [f"name_{i}" for i in range(20)]
LONG = {
    "call": f"self.conv = nn.Conv2d({', '.join(f'option_{i}=(3, {i})' for i in range(9))})",
    "nested": f"y = torch.cat([{', '.join(NAMES)}], dim=1).flatten(1)",
    "dictionary": "return {" + ", ".join(f"'(,{name}': {name}" for name in NAMES) + "}",
    "call that is not at the end": f"y = {'x' * 60} + f({', '.join(NAMES)}) * {'z' * 20}",
}


def test_short_statement_has_its_comment_behind_it() -> None:
    assert statement("y = x + 1", "a comment") == ["        y = x + 1  # a comment"]


def test_comment_that_does_not_fit_stands_above() -> None:
    lines = statement("y = x", "c" * 95)
    assert lines == ["        # " + "c" * 95, "        y = x"]


@pytest.mark.parametrize("name", LONG)
def test_long_statement_keeps_its_meaning_in_shorter_lines(name: str) -> None:
    lines = statement(LONG[name], indent=4)
    assert len(lines) > 1 and max(map(len, lines)) <= 100
    broken = ast.parse("if 1:\n" + "\n".join(lines)).body[0].body  # type: ignore[attr-defined]
    assert ast.dump(broken[0]) == ast.dump(ast.parse(LONG[name]).body[0])


def test_long_signature_is_broken_into_its_arguments() -> None:
    names = [f"argument_{i}: Tensor" for i in range(8)]
    lines = statement(f"def forward(self, {', '.join(names)}) -> Tensor:", indent=4)
    assert lines[0] == "    def forward("
    assert lines[1:-1] == [f"        {name}," for name in ["self", *names]]
    assert lines[-1] == "    ) -> Tensor:"


def test_long_sum_in_parentheses_is_left_alone() -> None:
    code = f"y = ({' + '.join(f'a_long_name_{i}' for i in range(12))}).abs()"
    assert statement(code) == [f"        {code}"]


def test_long_subscript_is_left_alone() -> None:
    code = f"y = x[:, [{', '.join(map(str, range(60)))}]]"
    assert statement(code) == [f"        {code}"]

"""The sentences and tables of a quantisation."""

from __future__ import annotations

from caffe_kd.quantization.evaluate import Evaluation, Latency
from caffe_kd.quantization.options import Method
from caffe_kd.quantization.report import slower_sentence, trial_table


def test_a_sentence_says_where_int8_is_slower():
    slow, quick = Latency(1, 300, 18.3, 42.7), Latency(64, 300, 1000, 500)
    sentence = slower_sentence([slow, quick])
    assert sentence.startswith(
        "int8 is 2.3 times slower at batch 1 (42.7 µs against 18.3) here: its layers are so small"
    )
    assert "batch 64" not in sentence
    assert slower_sentence([quick]) == ""
    assert slower_sentence([Latency(1, 300, 100, 101)]) == ""  # noise


def test_trials_without_labels_or_classes_have_a_dash():
    trials = {Method.MINMAX: Evaluation("held out", samples=8, rms=0.5)}
    assert trial_table(trials, Method.MINMAX)[1].split() == ["MINMAX", "0.5", "-", "-", "chosen"]

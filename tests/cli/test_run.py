from __future__ import annotations

import multiprocessing
import subprocess
import sys
from pathlib import Path

import pytest

from tests.layers.python_nets import without_caffe

pytestmark = without_caffe

IMPORTS = """
import sys
sys.path.insert(0, "/some/caffe/python")
import caffe, caffe.io, caffe.draw, neighbour
from caffe import layers as L, params as P
from caffe.proto import caffe_pb2
from caffe.coord_map import crop
import caffe_kd
assert caffe is caffe_kd and caffe.io is caffe_kd.io and caffe_pb2 is caffe_kd.proto.caffe_pb2
n = caffe.NetSpec()
n.x = L.Input(shape=dict(dim=[1, 1, 4, 4]))
n.p = L.Pooling(n.x, pool=P.Pooling.MAX, kernel_size=2, stride=2)
print(__name__, sys.argv[1:], neighbour.WORD, n.to_proto().layer[1].type)
"""


def run(folder: Path, *words: str, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "caffe_kd", "run", *words]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, **options
    )


def test_script_for_pycaffe_runs_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "old.py").write_text(IMPORTS)
    (tmp_path / "scripts" / "neighbour.py").write_text("import caffe.io\nWORD = 'found'\n")
    done = run(tmp_path, "scripts/old.py", "-h", "--more=1")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() == "__main__ ['-h', '--more=1'] found Pooling"


def test_python_layers_of_its_nets_run(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import caffe\n"
        "class Double(caffe.Layer):\n"
        "    def setup(self, bottom, top): pass\n"
        "    def reshape(self, bottom, top): top[0].reshape(*bottom[0].shape)\n"
        "    def forward(self, bottom, top): top[0].data[...] = 2 * bottom[0].data\n"
        "    def backward(self, top, down, bottom): pass\n"
    )
    (tmp_path / "net.prototxt").write_text(
        'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 3 } } }\n'
        'layer { name: "y" type: "Python" bottom: "x" top: "y"\n'
        '  python_param { module: "mine" layer: "Double" } }\n'
    )
    (tmp_path / "script.py").write_text(
        "import caffe, mine\n"
        "net = caffe.Net('net.prototxt', caffe.TEST)\n"
        "net.blobs['x'].data[...] = [1, 2, 3]\n"
        "print(net.forward()['y'].tolist(), type(net.layers[1]) is mine.Double)\n"
    )
    done = run(tmp_path, "script.py")
    assert (done.stdout.strip(), done.returncode) == ("[2.0, 4.0, 6.0] True", 0), done.stderr


def test_end_of_the_script_is_that_of_the_command(tmp_path: Path) -> None:
    (tmp_path / "ends.py").write_text(
        "import sys\nend = sys.argv[1]\nsys.exit(int(end) if end.isdigit() else end)\n"
    )
    assert run(tmp_path, "ends.py", "3").returncode == 3
    assert run(tmp_path, "ends.py", "0").returncode == 0
    done = run(tmp_path, "ends.py", "sorry")
    assert (done.returncode, done.stderr.strip()) == (1, "sorry")


def test_error_of_the_script_is_reported_as_by_python(tmp_path: Path) -> None:
    (tmp_path / "fails.py").write_text("import caffe\n\ncaffe.Net('no.prototxt', caffe.TEST)\n")
    done = run(tmp_path, "fails.py")
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[1] == '  File "fails.py", line 3, in <module>'
    assert "no.prototxt: no such file" in lines[-1]
    (tmp_path / "broken.py").write_text("import caffe\nif\n")
    done = run(tmp_path, "broken.py")
    assert done.returncode == 1
    assert 'broken.py", line 2' in done.stderr
    assert "runpy" not in done.stderr


def test_original_that_is_installed_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "caffe").mkdir()
    (tmp_path / "caffe" / "__init__.py").write_text("raise ImportError('never built')\n")
    (tmp_path / "script.py").write_text("print('ran')\n")
    done = run(tmp_path, "script.py")
    assert (done.returncode, done.stdout) == (1, "")
    assert "`import caffe` imports another Caffe here" in done.stderr
    assert "Write `import caffe_kd as caffe` in the script" in done.stderr


def test_module_runs_as_python_runs_it(tmp_path: Path) -> None:
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "__init__.py").write_text("import caffe\n")
    (tmp_path / "tools" / "helper.py").write_text("from caffe import layers as L\nTYPE = 'found'\n")
    (tmp_path / "tools" / "show.py").write_text(
        "import sys, os\nfrom .helper import TYPE\n"
        "print(__name__, __package__, os.path.basename(sys.argv[0]), sys.argv[1:], TYPE)\n"
        "if sys.argv[1:] == ['fail']: raise KeyError('here')\n"
    )
    done = run(tmp_path, "-m", "tools.show", "-h", "-m")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() == "__main__ tools show.py ['-h', '-m'] found"
    done = run(tmp_path, "-m", "tools.show", "fail")
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[1].endswith('show.py", line 4, in <module>')
    done = run(tmp_path, "-m", "tools.nothing")
    assert done.returncode == 1
    assert "No module named tools.nothing" in done.stderr


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_processes_of_the_script_import_caffe_too(tmp_path: Path, method: str) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system starts no processes by {method}")
    (tmp_path / "pool.py").write_text(
        "import multiprocessing, sys\n"
        "import caffe.io\n"
        "def work(number):\n"
        "    from caffe.proto import caffe_pb2\n"
        "    import caffe\n"
        "    return number, caffe_pb2.TEST, caffe.__name__\n"
        "if __name__ == '__main__':\n"
        "    with multiprocessing.get_context(sys.argv[1]).Pool(2) as pool:\n"
        "        print(pool.map(work, [5, 6]))\n"
    )
    done = run(tmp_path, "pool.py", method)
    assert done.stdout.strip() == "[(5, 1, 'caffe_kd'), (6, 1, 'caffe_kd')]", done.stderr


def test_wrong_usage_is_an_error(tmp_path: Path) -> None:
    for words in ((), ("-m",), ("nothing.py",)):
        done = run(tmp_path, *words)
        assert done.returncode == 2
        assert done.stderr
    assert "there is no script 'nothing.py'" in done.stderr
    for module in ("nothing", "nothing.at_all"):
        done = run(tmp_path, "-m", module)
        assert done.returncode == 1  # as with python -m
        assert done.stderr.startswith(f"error: No module named {module}. Looked from")


@pytest.mark.parametrize(
    ("script", "now"),
    [
        ("print 'loading'", "print is a function"),
        ("for i in xrange(2): pass", "range"),
        ("try:\n  pass\nexcept ValueError, e:\n  pass", "except NAME as error"),
        ("{}.iteritems()", "items"),
        ("import cPickle", "pickle"),
        ("raise ValueError, 'x'", "raise NAME"),
    ],
)
def test_python_2_is_named_with_what_to_change(tmp_path: Path, script: str, now: str) -> None:
    (tmp_path / "old.py").write_text(script + "\n")
    done = run(tmp_path, "old.py")
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 1
    assert last.startswith("This is Python 2") and now in last


@pytest.mark.parametrize("script", ["1 +", "gone", "[].gone", "import gone_module"])
def test_other_mistakes_are_python_s_alone(tmp_path: Path, script: str) -> None:
    (tmp_path / "new.py").write_text(script + "\n")
    done = run(tmp_path, "new.py")
    assert done.returncode == 1 and "Python 2" not in done.stderr

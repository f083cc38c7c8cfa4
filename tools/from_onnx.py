import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from caffe_kd.cli.from_onnx import main

sys.exit(main())

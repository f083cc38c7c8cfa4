import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from caffe_kd.cli.pycaffe_detect import main

sys.exit(main())

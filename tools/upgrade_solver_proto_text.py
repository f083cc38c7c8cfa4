import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from caffe_kd.cli.upgrade_solver_proto_text import main

sys.exit(main())

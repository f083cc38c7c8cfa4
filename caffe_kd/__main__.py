"""``python -m caffe_kd`` is the command ``caffe_kd``."""

import sys

from .cli.main import main

sys.exit(main())

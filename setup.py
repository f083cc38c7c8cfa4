"""Packaging of caffe_kd; ``pip install -e .`` for work on it, ``pip install .`` to use it."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = (HERE / "caffe_kd" / "core" / "version.py").read_text(encoding="utf-8").split('"')[-2]
# The examples lie beside the package, where people look for them; a build puts them into it, from
# where -solver prototxt/... and `caffe_kd examples` take them.
EXAMPLES = "caffe_kd.prototxt"

# A package index shows the README away from the files that it links to.
README = re.sub(r"!\[[^]]*\]\([^)]+\)\n+", "", (HERE / "README.md").read_text(encoding="utf-8"))
README = re.sub(r"\[([^]]+)\]\((?!https?://)[^)]+\)", r"\1", README)

setup(
    name="caffe_kd",
    version=VERSION,
    description="Caffe's training workflow with knowledge distillation, on PyTorch",
    long_description=README,
    long_description_content_type="text/markdown",
    author="The caffe_kd authors",
    license="MIT",
    keywords="caffe knowledge-distillation deep-learning model-compression onnx prototxt pytorch",
    python_requires=">=3.10",
    classifiers=[
        "Environment :: Console",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    packages=[*find_packages(include=["caffe_kd", "caffe_kd.*"]), EXAMPLES],
    package_dir={EXAMPLES: "prototxt"},
    package_data={
        "caffe_kd": ["py.typed"],
        "caffe_kd.proto": ["caffe.proto"],
        EXAMPLES: ["*.md", "*/*.md", "*/*.prototxt"],
    },
    # The suite has run with the oldest of these, and with those of tools/constraints.txt.
    install_requires=[
        "torch>=2.4,<3",
        "numpy>=2",  # what opencv-python-headless asks for
        "scipy>=1.13",  # this and the lower bounds below: the first for numpy 2
        "protobuf>=6.31",  # the first whose fields know is_repeated
        "onnx>=1.16",
        "onnxruntime>=1.19",
        "lmdb>=1.4",
        "google-crc32c>=1.5",
        "h5py>=3.11",
        "safetensors>=0.4",
        "opencv-python-headless>=4.12",  # the first that reads GIF
        "Pillow>=10",
        "matplotlib>=3.8.4",
        "scikit-learn>=1.4.2",
        "tqdm>=4.66",
    ],
    extras_require={
        "search": ["optuna>=4"],
        "tensorboard": ["tensorboard>=2.21"],  # the first that needs no pkg_resources
        "test": ["pytest>=8", "pytest-xdist>=3.5", "optuna>=4", "tensorboard>=2.21"],
        "check": ["ruff>=0.6", "mypy>=1.11", "types-protobuf>=5.26"],
    },
    entry_points={"console_scripts": ["caffe_kd=caffe_kd.cli.main:main"]},
)

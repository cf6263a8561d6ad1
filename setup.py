"""Packaging: what Skipwise needs, pinned. `requirements/` holds the exact sets that the Makefile installs."""

from setuptools import find_packages, setup

ROOMS = ["common", "datapipes", "models", "training", "studies", "retrieval", "components", "benchmarks"]
# The root of the repository is the package `skipwise`; the folders are its packages.
PACKAGES = ["skipwise"] + [
    f"skipwise.{name}" for name in find_packages(include=[pattern for room in ROOMS for pattern in (room, f"{room}.*")])
]

# TorchRec is not among these. Its metadata asks for the distribution fbgemm-gpu, which must not meet the CPU wheel:
# with the extra `cpu` it is installed afterwards by `pip install --no-deps -r requirements/torchrec.txt`.
INSTALL_REQUIRES = [
    "duckdb==2.0.0",
    "iopath==0.1.10",
    "matplotlib==3.11.2",
    "optuna==4.9.0",
    "numpy==2.4.6",
    "pyarrow==26.0.1",
    "pydantic==2.14.3",
    "pyre-extensions==0.0.32",
    "PyYAML==6.0.3",
    "safetensors==0.8.0",
    "scipy==1.17.1",
    "tensorboard==2.21.0",
    "tensordict==0.15.3",
    "torchmetrics==1.0.3",
    "torchx==0.7.0",
    "tqdm==4.70.1",
    "tyro==1.0.17",
]

# The version rule: fbgemm 1.X and torchrec 1.X go with torch 2.(X+5), hence whole sets and no ranges.
EXTRAS_REQUIRE = {
    "cpu": ["torch==2.13.0", "fbgemm-gpu-cpu==1.8.0"],
    "gpu": ["torch==2.13.0", "fbgemm-gpu==1.8.0", "torchrec==1.8.0"],
    "gpu-torch211": ["torch==2.11.0", "fbgemm-gpu==1.6.0", "torchrec==1.6.1"],
    "ann": ["faiss-cpu==1.15.1"],
    "onnx": ["onnx==1.23.2", "onnxruntime==1.31.1", "onnxscript==0.7.2"],
    "serve": ["fastapi==0.165.0", "prometheus-client==0.26.0", "uvicorn==0.54.0"],
    "dev": [
        "httpx==0.28.1",
        "hypothesis==6.170.15",
        "playwright==1.65.2",
        "pytest==9.2.0",
        "pytest-timeout==2.4.0",
        "pytest-xdist==3.8.0",
        "ruff==0.17.5",
    ],
}

setup(
    name="skipwise",
    version="0.1.0",
    description="Session recommenders on TorchRec that learn from what listeners skip",
    python_requires=">=3.11",
    package_dir={"skipwise": "."},
    packages=PACKAGES,
    package_data={"skipwise.retrieval.serve": ["page/*"], "skipwise.components": ["torchrun.bash"]},
    install_requires=INSTALL_REQUIRES,
    extras_require=EXTRAS_REQUIRE,
    entry_points={"console_scripts": ["skipwise = skipwise.components.__main__:main"]},
)

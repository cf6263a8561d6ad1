"""Packaging: what Skipwise needs, pinned. `requirements/` holds the exact sets that the Makefile installs."""

from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOMS = ["common", "datapipes", "models", "training", "studies", "retrieval", "components", "benchmarks"]
# The root of the repository is the package `skipwise`; the folders are its packages.
PACKAGES = ["skipwise"] + [
    f"skipwise.{name}" for name in find_packages(include=[pattern for room in ROOMS for pattern in (room, f"{room}.*")])
]

# TorchRec is not among these. Its metadata asks for the distribution fbgemm-gpu, which must not meet the CPU wheel:
# with the extra `cpu` it is installed afterwards by `pip install --no-deps torchrec==1.8.0`.
INSTALL_REQUIRES = [
    "duckdb==2.0.0",
    "iopath==0.1.10",
    "Jinja2==3.1.6",
    "matplotlib==3.11.2",
    "numpy==2.4.6",
    "optuna==4.9.0",
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
    "cpu": ["torch==2.13.0", "fbgemm-gpu-cpu==1.8.0; sys_platform == 'linux'"],
    "gpu": ["torch==2.13.0", "fbgemm-gpu==1.8.0", "torchrec==1.8.0"],
    "gpu-torch211": ["torch==2.11.0", "fbgemm-gpu==1.6.0", "torchrec==1.6.1"],
    "ann": ["faiss-cpu==1.15.1"],
    "frames": ["pandas==3.1.1", "polars==2.1.0"],
    "onnx": ["onnx==1.23.2", "onnxruntime==1.31.1", "onnxscript==0.7.2"],
    "pgvector": ["psycopg[binary]==3.3.9"],
    "qdrant": ["qdrant-client==1.20.0"],
    "spark": ["pandas==3.1.1", "pyspark==4.3.0"],
    "serve": ["fastapi==0.165.0", "httptools==0.9.0", "prometheus-client==0.26.0", "uvicorn==0.54.0"],
    "dev": [
        "flask==3.1.3",
        "flask-cors==6.0.5",
        "httpx==0.28.1",
        "hypothesis==6.170.15",
        "import-linter==2.17",
        "ipykernel==7.4.0",
        "mkdocs==1.6.1",
        "mkdocs-material==9.8.2",
        "mkdocstrings[python]==1.0.8",
        "moto==5.2.5",
        "mypy==2.4.1",
        "nbclient==0.11.0",
        "nbformat==5.11.1",
        "pandas-stubs==3.1.0.261029",
        "playwright==1.65.2",
        "pre-commit==4.7.0",
        "py-partiql-parser==0.6.3",
        "pytest==9.2.0",
        "pytest-timeout==2.4.0",
        "pytest-xdist==3.8.0",
        "ruff==0.17.5",
        "types-PyYAML==6.0.12.20261113",
        "types-tqdm==4.70.0.20261106",
    ],
}


class BuildWithoutSetup(build_py):
    """setup.py stands in the folder of the package `skipwise`, and is no module of it."""

    def find_package_modules(self, package: str, package_dir: str) -> list[tuple[str, str, str]]:
        """Lists a package's modules as (package, module, file), without this file."""
        return [found for found in super().find_package_modules(package, package_dir) if found[1] != "setup"]


setup(
    name="skipwise",
    version="0.1.0",
    description="Session recommenders on TorchRec that learn from what listeners skip",
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The Skipwise authors",
    license="BSD-3-Clause",
    license_files=["LICENSE"],
    project_urls={"Paper": "https://arxiv.org/abs/2309.11623"},
    keywords=["recommender systems", "sequential recommendation", "negative feedback", "TorchRec"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    python_requires=">=3.11,<3.14",
    package_dir={"skipwise": "."},
    packages=PACKAGES,
    package_data={
        "": ["*.bash", "*.html", "*.css", "*.jinja", "*.txt", "page/*", "templates/*", "peer_scripts/*"],
        "skipwise": ["py.typed"],
    },
    install_requires=INSTALL_REQUIRES,
    extras_require=EXTRAS_REQUIRE,
    entry_points={
        "console_scripts": ["skipwise = skipwise.components.__main__:main"],
        # The names by which .torchxconfig may ask for TorchX's own trackers; TorchX registers none.
        "torchx.tracker": [
            "fsspec = torchx.tracker.backend.fsspec:create",
            "mlflow = torchx.tracker.mlflow:create_tracker",
        ],
    },
    cmdclass={"build_py": BuildWithoutSetup},
)

"""Packaging of sam_jax. requirements.txt holds the tested exact versions."""

import pathlib
import re

import setuptools

_ROOT = pathlib.Path(__file__).resolve().parent

_JAX = '>=0.10,<0.13'
# What the gradient, the perturbations and the methods need.
_REQUIRES = [f'jax{_JAX}', 'numpy>=2.0']
_ANALYSIS = [
  # Lanczos.
  'matfree>=0.6.3,<0.7',
  'matplotlib>=3.9',
  'scipy>=1.14',
]
# Training, sweeps and reports; sam_jax/extras.py says which of these an import
# lacks.
_TRAIN = [
  'absl-py>=2.1',
  'array_record>=0.8.1; sys_platform != "win32"',
  'filelock>=4',
  'flax>=0.12.8',
  'grain>=0.2.16',
  # tensorflow-datasets imports it without listing it.
  'importlib_resources>=6.4',
  'matplotlib>=3.9',
  'ml-collections>=1.0',
  # Its 5 interpolates to the last digit where 4 looked weights up.
  'opencv-python-headless>=5',
  'optax>=0.2.8',
  'orbax-checkpoint>=0.12',
  # Decodes what is no JPEG.
  'pillow>=11',
  # Reads traces, in scripts/read_profile.py; TensorBoard needs it too.
  'protobuf>=5',
  'scikit-learn>=1.5',
  'scipy>=1.14',
  'simplejpeg>=1.8.2',
  'tensorboard>=2.19',
  'tensorflow-datasets>=4.9.9',
  'tqdm>=4.66',
  # Checksums of checkpoints.
  'xxhash>=3.4',
]
# The tracking client; what it keeps a local database with comes besides.
_MLFLOW = ['mlflow-skinny>=3.1', 'sqlalchemy>=2', 'alembic>=1.13']
_WANDB = ['wandb>=0.19.10']
_RAY = ['ray>=2.50']
_TOKENIZERS = ['tokenizers>=0.20']
_DOCS = [
  'latex2mathml>=3.78',
  'mkdocs-awesome-nav>=3.2',
  'mkdocs-material>=9.7',
  'mkdocstrings[python]>=1',
]
_EXTRAS = {
  'analysis': _ANALYSIS,
  'train': _TRAIN,
  # CUDA 12 runs on older drivers too; jax[cuda13] can be installed instead.
  'cuda': [f'jax[cuda12]{_JAX}'],
  'tpu': [f'jax[tpu]{_JAX}'],
  'ray': _RAY,
  'tokenizers': _TOKENIZERS,
  'wandb': _WANDB,
  'mlflow': _MLFLOW,
  # For comparisons with other implementations; torch.nn.utils.get_total_norm
  # is public since 2.6.
  'torch': ['torch>=2.6'],
  'docs': _DOCS,
  'dev': [
    *_ANALYSIS,
    *_MLFLOW,
    *_WANDB,
    *_TRAIN,
    *_RAY,
    *_TOKENIZERS,
    *_DOCS,
    'build>=1.2',
    # Their modules and networks are parameters on pages of the docs.
    'dm-haiku>=0.0.16',
    'equinox>=0.13.8',
    # The notebook of the docs is executed by the tests.
    'ipykernel>=6.29',
    'mypy>=2',
    'nbclient>=0.10',
    'packaging>=24',
    'pre-commit>=4',
    'pytest>=9',
    'pytest-xdist>=3.8',
    'ruff>=0.17,<0.18',
    'setuptools>=77',
    'twine>=6',
  ],
}
_COMMANDS = (
  'analyze',
  'compare_methods',
  'convert_checkpoint',
  'evaluate',
  'find_rho',
  'generate',
  'predict',
  'prepare_data',
  'report',
  'sweep',
  'train',
)
# Commands that are not called as their module is.
_SHORT = {'compare_methods': 'compare'}


def _version() -> str:
  """Reads `__version__` without importing the package and, with it, JAX."""
  source = (_ROOT / 'sam_jax' / '__init__.py').read_text(encoding='utf-8')
  match = re.search(r"^__version__ = '([^']+)'$", source, re.MULTILINE)
  if match is None:
    raise ValueError("sam_jax/__init__.py has no line `__version__ = '...'`.")
  return match.group(1)


def _readme() -> str:
  return (_ROOT / 'README.md').read_text(encoding='utf-8')


setuptools.setup(
  name='sam_jax',
  version=_version(),
  description='Sharpness-Aware Minimization in JAX and Flax',
  long_description=_readme(),
  long_description_content_type='text/markdown',
  author='The sam_jax Authors',
  license='Apache-2.0',
  license_files=['LICENSE'],
  python_requires='>=3.11',
  packages=setuptools.find_packages(include=['sam_jax', 'sam_jax.*']),
  package_data={'sam_jax': ['py.typed', 'runs/shipped_runs/*.zip']},
  install_requires=_REQUIRES,
  extras_require=_EXTRAS,
  entry_points={
    'console_scripts': [
      f'sam-{_SHORT.get(name, name).replace("_", "-")} = sam_jax.{name}:cli'
      for name in _COMMANDS
    ]
  },
  classifiers=[
    'Intended Audience :: Science/Research',
    'Programming Language :: Python :: 3 :: Only',
    'Topic :: Scientific/Engineering :: Artificial Intelligence',
    'Typing :: Typed',
  ],
)

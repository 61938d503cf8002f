r"""Prints text that a language model writes, as it comes.

    python -m sam_jax.generate --workdir=runs/a --prompt='The statement ' \
        --tokens=200 --temperature=0.8 --top_k=40 --seed=1

The prompt is printed first. The same seed gives the same text. A run whose data
are token files writes text if data.tokenizer was set.

Exit status: 0 done, 2 the run, the checkpoint or a flag is not usable.
"""

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from sam_jax import _cli

if TYPE_CHECKING:
  from sam_jax.datasets import tokenization
  from sam_jax.runs import loading

flags = _cli.Flags()
_WORKDIR = flags.DEFINE_string('workdir', None, 'Run directory.', required=True)
_CHECKPOINT = flags.DEFINE_string(
  'checkpoint', 'last', "'last', 'best', or a step."
)
_PROMPT = flags.DEFINE_string(
  'prompt', '', 'Text to continue; none is a new line, which is not printed.'
)
_TOKENS = flags.DEFINE_integer(
  'tokens', 200, 'How many tokens to add.', lower_bound=0
)
_TEMPERATURE = flags.DEFINE_float(
  'temperature',
  1.0,
  'Divides the logits: less is likelier text, and 0 is the likeliest token.',
)
_TOP_K = flags.DEFINE_integer(
  'top_k', None, 'Choose among that many of the likeliest tokens; none is all.'
)
_SEED = flags.DEFINE_integer('seed', 0, 'Of the draws.')
_NO_PLUGINS = _cli.define_no_plugins(flags)


def main(argv: Sequence[str]) -> None:
  """Does what the flags say; raises if it cannot be done."""
  from sam_jax.datasets import tokenization
  from sam_jax.runs import ambient, files, loading

  _cli.refuse_arguments(argv[1:])
  restored = loading.restore(
    files.user_path(_WORKDIR.value),
    _cli.checkpoint(_CHECKPOINT.value),
    plugins=not _NO_PLUGINS.value,
  )
  if 'tokenizer' not in restored.task.info:
    raise ValueError(
      f'{_WORKDIR.value} is a run of the task {restored.config.task.name!r}; '
      "only a model of 'language_modelling' writes text"
    )
  tokenizer = tokenization.of(restored.task.info['tokenizer'])
  with ambient.pinned():
    for piece in pieces(tokenizer, *_text(restored, tokenizer)):
      print(piece, end='', flush=True)
  print()


def _text(
  restored: 'loading.Restored', tokenizer: 'tokenization.Tokenizer'
) -> tuple[list[int], Iterator[int]]:
  """Returns the tokens of the prompt, and those that follow."""
  from sam_jax.runs import generation

  prompt = tokenizer.encode(os.fsencode(_PROMPT.value)).tolist()
  info = restored.task.info
  generated = generation.generate(
    restored.apply_fn,
    restored.variables,
    prompt or tokenizer.encode(b'\n').tolist(),
    context_length=info['context_length'],
    vocabulary_size=info['vocabulary_size'],
    sampling=generation.Sampling(_TEMPERATURE.value, _TOP_K.value, _SEED.value),
  )
  return prompt, itertools.islice(generated, _TOKENS.value)


def pieces(
  tokenizer: 'tokenization.Tokenizer',
  prompt: Sequence[int],
  tokens: Iterable[int],
) -> Iterator[str]:
  """Yields text whenever there is more of it.

  A character may take several tokens: what may still be a part of one waits.

  Args:
    tokenizer: decodes tokens.
    prompt: tokens that come first.
    tokens: those that follow.
  """
  seen: list[int] = []
  done, text = 0, ''
  for new in itertools.chain([prompt], ([token] for token in tokens)):
    seen += new
    text = tokenizer.decode(seen).decode('utf-8', 'replace')
    ready = len(text.rstrip('\N{REPLACEMENT CHARACTER}'))
    if ready > done:
      yield text[done:ready]
      done = ready
  if done < len(text):  # it ends within a character
    yield text[done:]


def cli() -> None:
  """Runs the command with the arguments of this process."""
  _cli.run(main, 'generate', flags)


if __name__ == '__main__':
  cli()

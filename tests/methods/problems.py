"""A loss of examples, as a method sees it in training."""

import functools
import math

import jax
import jax.numpy as jnp

from sam_jax import methods, tree


def create(losses_fn, examples, is_measured=False):
  """Returns the problem of a mean loss.

  Args:
    losses_fn: `(params, examples) -> losses`.
    examples: a tree of arrays with the examples in front.
    is_measured: whether something is measured that needs both gradients.
  """
  of = functools.partial(create, losses_fn, is_measured=is_measured)
  count = len(jax.tree.leaves(examples)[0])

  def loss(params):
    losses = losses_fn(params, examples)
    return jnp.mean(losses), losses

  def scored(params):
    (value, losses), grads = jax.value_and_grad(loss, has_aux=True)(params)
    return (value, ()), grads, losses

  def rows(index):
    return jax.tree.map(lambda x: x[index], examples)

  def chosen(scores, share):
    return of(rows(jax.lax.top_k(scores, math.ceil(share * count))[1]))

  def squared_gradients(params, number):
    grads_fn = jax.vmap(
      jax.grad(lambda p, example: losses_fn(p, example)[0]), (None, 0)
    )
    one_each = jax.tree.map(lambda x: x[:number, None], examples)
    grads = grads_fn(params, one_each)
    return jax.tree.map(lambda g: jnp.mean(g, axis=0), tree.squares(grads))

  def diagnose(params, out, info):
    if not is_measured:
      return {}
    return {'cosine': tree.cosine(info.ascent_grads, info.descent_grads)}

  gradient = lambda params: scored(params)[:2]
  return methods.Problem(
    gradient,
    gradient,
    diagnose,
    example_losses=lambda params: losses_fn(params, examples),
    scored=scored,
    first=lambda share: of(rows(slice(math.ceil(share * count)))),
    chosen=chosen,
    squared_gradients=squared_gradients,
  )


def value_and_grad(method, losses_fn, *, key, learning_rate, **options):
  """Returns what `method.value_and_grad` does, of a loss of examples."""
  options = {k: v for k, v in options.items() if k != 'takes_momentum'}

  def grad_fn(state, params, examples, momentum):
    step_key = jax.random.fold_in(key, state.step)
    ctx = methods.Context(
      state.step,
      key=step_key,
      step_key=step_key,
      learning_rate=learning_rate(state.step),
      momentum=momentum,
      **options,
    )
    problem = create(losses_fn, examples)
    result = method.gradient(problem, state, params, ctx)
    return result.out, *method.finish(state, result, ctx)

  return grad_fn

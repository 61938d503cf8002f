"""What a classification should measure, written the slow way."""

import numpy as np


def metrics(logits, labels):
  """Returns the metrics, one example at a time, in float64."""
  rows = {'loss': [], 'error_rate': [], 'top5_error_rate': []}
  for row, label in zip(np.asarray(logits, np.float64), labels, strict=True):
    largest_first = sorted(range(len(row)), key=lambda k: -row[k])
    shifted = row - row.max()
    rows['loss'].append(np.log(np.exp(shifted).sum()) - shifted[label])
    rows['error_rate'].append(largest_first[0] != label)
    rows['top5_error_rate'].append(label not in largest_first[:5])
  return {name: np.array(values, float) for name, values in rows.items()}

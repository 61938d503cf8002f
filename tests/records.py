"""Sets of tensorflow-datasets, prepared as array_record without TensorFlow."""

import io


def prepare(directory, name, examples, *, num_classes, shape=None):
  """Prepares a set under a name that tensorflow-datasets knows.

  `tfds build` needs TensorFlow to encode images; these come encoded.

  Args:
    directory: of all sets.
    name: the set's.
    examples: {split: [(bytes of an image file, label), ...]}.
    num_classes: of the labels.
    shape: of the images, None if they differ.
  """
  import tensorflow_datasets as tfds
  from tensorflow_datasets.core import registered

  class Prepared:
    # Looked up outside: looking up imports the class, and it is to register.
    VERSION = tfds.builder_cls(name).VERSION

    def _info(self):
      features = dict(
        image=tfds.features.Image(shape=shape),
        label=tfds.features.ClassLabel(num_classes=num_classes),
      )
      return tfds.core.DatasetInfo(
        builder=self,
        features=tfds.features.FeaturesDict(features),
        disable_shuffling=True,
      )

    def _split_generators(self, dl_manager):
      del dl_manager
      return {split: self._generate_examples(split) for split in examples}

    def _generate_examples(self, split):
      for i, (data, label) in enumerate(examples[split]):
        yield i, dict(image=io.BytesIO(data), label=label)

  # The set is named after its class.
  title = ''.join(part.capitalize() for part in name.split('_'))
  with registered.skip_registration():
    builder = type(
      title,
      (Prepared, tfds.core.GeneratorBasedBuilder),
      {'__module__': __name__},
    )
  builder(
    data_dir=str(directory), file_format='array_record'
  ).download_and_prepare()

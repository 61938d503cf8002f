r"""Every field of a run, with its meaning, unit and official counterpart.

The other files import this one and override a few fields. On the command line:

    python -m sam_jax.train --config=digits --workdir=runs/a \
        --config.method.rho=0.1

--config.FIELD=None sets a field back to None, where that is the default here.
Another --config.model.name leaves out what the config file says of its own
model, and a line says what that was; the same holds for the optimizer.

Where a comment says "official", it means google-research/sam: the value there
and, in brackets, its flag. A field that is None takes the default of what it
is handed to. In `model`, `data`, `schedule` and `optimizer`, all fields but
the name go as they are to the model, data set, schedule or optimizer of that
name: a config file may add fields that its own needs.
"""

import ml_collections
from ml_collections.config_dict import placeholder


def get_config() -> ml_collections.ConfigDict:
  """Returns the defaults: SAM on the digits, on any machine, in seconds."""
  config = ml_collections.ConfigDict()

  # --- Seeds and determinism -------------------------------------------------
  # Initialisation, shuffling, augmentation, dropout. Replicas of an experiment
  # differ in this one. Official [run_seed]: reaches dropout only.
  config.seed = 0
  # GPU: bit-reproducible kernels, somewhat slower. CPU always is.
  config.deterministic = False
  # Python modules to import first; they may register models and data sets.
  config.plugins = ()

  # --- Task ------------------------------------------------------------------
  # What a batch, a loss and a score are: 'image_classification',
  # 'language_modelling', or a task of one's own. The other fields of the
  # section go to it.
  config.task = ml_collections.ConfigDict()
  config.task.name = 'image_classification'
  # 'image_classification': 'softmax', or 'sigmoid', a question of yes or no for
  # each class, as big_vision trains ViTs.
  config.task.loss = placeholder(str)

  # --- Model [model_name] ----------------------------------------------------
  config.model = ml_collections.ConfigDict()
  # 'WideResnet28x10', 'Pyramid_ShakeDrop', 'efficientnet-b7', ...; `python -m
  # sam_jax.models` lists all, and shows one.
  config.model.name = 'cnn'
  # 'wide_resnet', 'shake_shake', 'pyramidnet', 'cifar_resnet': layers; 'vit',
  # 'mixer', 'gpt': blocks.
  config.model.depth = placeholder(int)
  # 'wide_resnet': factor on 16, 32, 64 channels; 'shake_shake', 'resnet':
  # channels of the first group; 'vit', 'mixer', 'gpt': features of a patch or a
  # token. An EfficientNet's factors are in its name.
  config.model.width = placeholder(int)
  # 'pyramidnet', 'PyramidNet272': channels by which the blocks grow.
  config.model.alpha = placeholder(int)
  # 'pyramidnet': whether its branches are dropped at random.
  config.model.shake_drop = placeholder(bool)
  # EfficientNets, 'vit', 'mixer': side of the images, to which all are resized;
  # None is the model's own, or leaves them as they are.
  config.model.resolution = placeholder(int)
  # EfficientNets: probability of skipping the last block; official 0.2.
  config.model.drop_connect_rate = placeholder(float)
  # 'wide_resnet': official [use_additional_skip_connections], False.
  config.model.use_additional_skip_connections = placeholder(bool)
  # What BatchNorm normalises by: 'batch', a microbatch; 'synced', those of all
  # devices (official for EfficientNets from scratch); 'frozen', the running
  # statistics, which stay as they are (official for fine-tuning); 'wide_resnet'
  # and 'cnn' also have 'none'.
  config.model.norm = placeholder(str)
  # Whether the backward pass computes blocks again instead of keeping what is
  # inside: less memory, more time. Not for 'cnn'.
  config.model.remat = placeholder(bool)
  # 'wide_resnet', 'cnn', 'vit', 'gpt', EfficientNets: share of activations
  # dropped; official 0, but 0.2 to 0.5 for EfficientNets.
  config.model.dropout_rate = placeholder(float)
  # 'vit', 'mixer': side of a patch in pixels. 'vit', 'gpt': heads of the
  # attention, hidden units of an MLP (None is four times the width). 'mixer':
  # hidden units of the MLPs over patches and over features.
  config.model.patch = placeholder(int)
  config.model.heads = placeholder(int)
  config.model.mlp_width = placeholder(int)
  config.model.tokens_mlp_width = placeholder(int)
  config.model.channels_mlp_width = placeholder(int)
  # ViT: what the logits are made of, 'token' or 'gap', the mean over patches.
  config.model.classifier = placeholder(str)
  # ViT: 'learned' or 'sincos2d'. GPT: 'learned' or 'rotary'.
  config.model.positions = placeholder(str)
  # ViT, Mixer: biases of the classifier at the start; None is 0.
  config.model.head_bias = placeholder(float)
  # ViT, GPT: kernel of the attention, 'xla', 'cudnn' or, which None is, 'auto'.
  config.model.attention = placeholder(str)
  # GPT: number of positions, None is data.context_length; whether the logits
  # are made with the embeddings of the tokens; whether there are biases.
  config.model.context_length = placeholder(int)
  config.model.tied = placeholder(bool)
  config.model.use_bias = placeholder(bool)
  # 'cnn': channels of its convolutions, units of its hidden layer.
  config.model.features = placeholder(tuple)
  config.model.hidden = placeholder(int)
  # 'cnn': 'relu', 'tanh', ... GPT: 'gelu', 'swiglu'.
  config.model.activation = placeholder(str)
  # What to start from; '' is random. A run directory: the parameters with which
  # its last checkpoint was evaluated (the moving average, if the run keeps
  # one). Or an official checkpoint, such as the .npz files of ViT and Mixer.
  config.init_from = ''
  # Run directory whose last checkpoint predicts the training labels, which then
  # count instead of the data set's; '' is none. What the paper calls bootstrap:
  # the first run has the same config.data, and is finished.
  config.labels_from = ''

  # --- Data [dataset] --------------------------------------------------------
  config.data = ml_collections.ConfigDict()
  # In memory: 'digits', 'fashion_mnist', 'cifar10', 'cifar100', 'svhn_cropped'.
  # Decoded on the fly: 'imagenet2012', 'oxford_flowers102', 'oxford_iiit_pet',
  # 'cars196', 'food101', 'fgvc_aircraft', 'birdsnap' and 'image_folder', any
  # directory with train/CLASS/ and test/CLASS/. Synthetic, to try a config
  # without its data: 'fake_cifar10', 'fake_cifar100' and 'fake_imagenet', of
  # the shape of the originals. For 'language_modelling':
  # 'python_manual', which every Python contains; 'text', a file or the files
  # *.txt, *.text, *.md, *.rst and *.tex of a directory and those below it;
  # 'bible', of Debian's bible-kjv-text; 'tokens', nanoGPT's .bin files.
  config.data.name = 'digits'
  # Where its files are; None looks in the usual places.
  config.data.directory = placeholder(str)
  # 'digits': training examples of the 1,797, the rest are for testing; None is
  # 1,000. 'fashion_mnist': the first of the 60,000; 'fake_...': the first of as
  # many as the original has, with a test image for every five; None is all.
  config.data.train_size = placeholder(int)
  # Decoded on the fly: height and width of the crops in pixels; None is what
  # the model is meant for, else 224.
  config.data.image_size = placeholder(int)
  # Decoded on the fly: processes that decode; None and 0 use threads.
  config.data.workers = placeholder(int)
  # Text: T, the tokens of a window that are predicted; None is 256. The
  # model's context is as long unless model.context_length says otherwise.
  config.data.context_length = placeholder(int)
  # Text: tokenizer.json of the library `tokenizers`; None makes a token of each
  # byte. 'tokens': what made them, if it is known.
  config.data.tokenizer = placeholder(str)
  # Text: ids of tokens that the model knows; None is as many as the tokenizer
  # has, 256 for bytes. 'tokens' needs it, or the tokenizer.
  config.data.vocabulary_size = placeholder(int)
  # Text: shares of validation and test, at the end and in this order; None is
  # 0.05 each. Neither is ever trained on. 'tokens' has files for its splits.
  config.data.validation_share = placeholder(float)
  config.data.test_share = placeholder(float)
  # What to evaluate on: 'test', or 'validation': of images the last tenth of
  # the training data, which is then not trained on. Official [use_test_set]:
  # test.
  config.data.split = 'test'
  # Of the label noise, and of the digits' split. Fixed over replicas.
  config.data.seed = 0
  # Share of the training labels that is corrupted, in [0, 1].
  config.data.label_noise = 0.0
  # 'symmetric': each becomes another class, uniformly chosen; 'uniform': each
  # is redrawn over all classes, so some stay right; 'asymmetric': in some
  # classes each becomes a class that looks like it.
  config.data.label_noise_kind = 'symmetric'

  # --- Augmentation, on the device -------------------------------------------
  config.augmentation = ml_collections.ConfigDict()
  # 'none'; 'basic': flip, pad by reflection, crop; 'autoaugment' and
  # 'randaugment': the same after these; 'aa-only': AutoAugment without it.
  # Official [image_level_augmentations]: basic.
  config.augmentation.name = 'none'
  # Pixels on each side before the crop; 0 only flips. Official: 4, but 0 for
  # ImageNet.
  config.augmentation.padding = 4
  # AutoAugment: what it was found for, 'cifar', 'imagenet' or 'svhn'.
  config.augmentation.policy = 'cifar'
  # How far AutoAugment and RandAugment translate and cut out: 'official', as
  # many pixels as on ImageNet whatever the size, so that an eighth of CIFAR's
  # images become all grey; or 'cifar', in proportion to the image.
  config.augmentation.constants = 'official'
  # RandAugment: operations per image, and their level. Official
  # [randaug_num_layers, randaug_magnitude]: 2 and 9.
  config.augmentation.num_layers = 2
  config.augmentation.magnitude = 9
  # Side of the square that is masked, in pixels; 0 is none. Official
  # [batch_level_augmentations=cutout]: 16.
  config.augmentation.cutout_length = 0
  # One mask for the whole 'batch' (official), or one per 'example'.
  config.augmentation.cutout_per = 'batch'

  # --- Mixing, on the device -------------------------------------------------
  config.mixing = ml_collections.ConfigDict()
  # 'none', 'mixup' or 'cutmix': images of a microbatch with each other. Mixup
  # with cutout is the official [batch_level_augmentations=mixcut].
  config.mixing.name = 'none'
  # Weights are drawn from Beta(alpha, alpha), once per step. Official: 1.
  config.mixing.alpha = 1.0
  # Share of the steps in which images are mixed.
  config.mixing.probability = 1.0

  # --- Method ----------------------------------------------------------------
  # How the gradient is obtained: 'sgd', 'sam', 'asam', ..., a file of
  # sam_jax/methods each, which says what the fields mean and where the defaults
  # are from; docs/methods has a page for each. A field that is None has the
  # default of its method. One that the method does not take is refused, and the
  # error names methods that take it. Fields that are not listed here can be set
  # all the same.
  config.method = ml_collections.ConfigDict()
  config.method.name = 'sam'
  # All that perturb: radius of the perturbation, in units of the parameters; 0
  # is SGD. Official [sam_rho].
  config.method.rho = placeholder(float)
  # All that perturb: how the radius changes along the run, from rho to rho_min:
  # 'constant', 'linear', 'cosine', or 'learning_rate', which is largest where
  # the learning rate is. rho_min is 0 unless it is given.
  config.method.rho_schedule = placeholder(str)
  config.method.rho_min = placeholder(float)
  # All that perturb, unless the method is this choice itself. A choice is a
  # name, or a name with arguments such as 'bernoulli(0.6)'; an error lists the
  # names. Along what is perturbed: 'gradient', 'random', ...
  config.method.direction = placeholder(str)
  # How the radius is measured: 'l2', 'lp(3)', 'adaptive(eta=0.01)', ...
  config.method.metric = placeholder(str)
  # Which parameters are perturbed: 'none' leaves none out; 'normalisation',
  # 'kernels' and 'matching("regex")' choose by name, 'bernoulli(0.6)' by
  # chance, 'fisher(0.5)', 'squared_gradient(0.1)' and 'dynamic(0.5)' by
  # gradients.
  config.method.mask = placeholder(str)
  # What is made of the gradients at w and at w + epsilon: 'sam', 'gsam(0.6)',
  # ...
  config.method.combine = placeholder(str)
  # In which steps, if not in all; several are possible, and then a step
  # perturbs if all agree. Every k-th step, the first one included. 'looksam':
  # steps from one perturbation to the next.
  config.method.every = placeholder(int)
  # Share of the run before the first step that perturbs, in [0, 1].
  config.method.start = placeholder(float)
  # Probability with which a step perturbs.
  config.method.probability = placeholder(float)
  # A test of another kind: 'gradient_norm(-1, 1)', that of AE-SAM.
  config.method.when = placeholder(str)
  # Of which examples, as shares in (0, 1] of each microbatch, rounded up: the
  # first ones make the perturbation; those whose loss rises most make the
  # gradient; those with the largest losses make both. metric_examples in the
  # log says over how many examples the metrics of a step are means.
  config.method.ascent_share = placeholder(float)
  config.method.descent_share = placeholder(float)
  config.method.loss_share = placeholder(float)
  # 'sam', 'asam': norm of the ball, in [1, inf]; the paper's results have 2.
  config.method.p = placeholder(float)
  # 'sam': ascent steps per perturbation; the paper's results have 1.
  config.method.ascent_steps = placeholder(int)
  # 'sam': whether to differentiate through the perturbation (appendix C.4), for
  # about twice the cost; the paper's results do not.
  config.method.second_order = placeholder(bool)
  # 'asam': added to the magnitudes by which the ball is stretched.
  config.method.eta = placeholder(float)
  # 'gsam': share of the ascent gradient's part that is subtracted. 'looksam':
  # length of the stored part, in units of the gradient's.
  config.method.alpha = placeholder(float)

  # --- Batch -----------------------------------------------------------------
  # B: examples per step over all devices. Official [batch_size]: 128.
  config.batch_size = 50
  # m: examples that share one perturbation. It belongs to the algorithm: a
  # smaller m generalises better (paper, section 4.1). None is the batch per
  # device at the first start. Official: always the batch per device;
  # [sync_perturbations] is m = batch_size, [inner_group_size] k is m = k times
  # the batch per device.
  config.m = placeholder(int)
  # b: examples per forward pass, hence per BatchNorm. None is the smaller of m
  # and the batch per device at the first start. Official: batch per device.
  config.microbatch_size = placeholder(int)
  # Examples per evaluation step over all devices; any number is exact.
  config.eval_batch_size = 1000

  # --- Length and learning rate ----------------------------------------------
  # Passes over the training data. Official [num_epochs]: 200.
  config.num_epochs = 50
  # Updates; if given, this counts instead of num_epochs.
  config.num_steps = placeholder(int)
  # Largest learning rate. Official [learning_rate]: 0.1.
  config.learning_rate = 0.1
  config.schedule = ml_collections.ConfigDict()
  # 'cosine', 'exponential', 'constant', 'linear', 'piecewise'. Official
  # [lr_schedule].
  config.schedule.name = 'cosine'
  # Epochs over which the learning rate rises from 0. Official: 0 for cosine.
  config.schedule.warmup_epochs = 0.0
  # Updates over which it rises; if given, this counts instead.
  config.schedule.warmup_steps = placeholder(int)
  # 'exponential', 'cosine': share of the learning rate left at the end;
  # official 0.012 and 0.
  config.schedule.end_fraction = placeholder(float)
  # 'piecewise': shares of the run after which it is multiplied by the factor.
  config.schedule.boundaries = placeholder(tuple)
  config.schedule.factor = placeholder(float)
  # Whether it begins where the warm-up ends; official: at step 0.
  config.schedule.after_warmup = placeholder(bool)

  # --- Optimizer -------------------------------------------------------------
  config.optimizer = ml_collections.ConfigDict()
  # 'sgd', 'rmsprop_tf' (official [use_rmsprop]), 'adamw', 'lion', or any
  # function of optax with a learning rate.
  config.optimizer.name = 'sgd'
  # 'sgd', 'rmsprop_tf': official 0.9, and so is the default.
  config.optimizer.momentum = placeholder(float)
  # 'sgd': official True, and so is the default.
  config.optimizer.nesterov = placeholder(bool)
  # 'rmsprop_tf': of the mean of squares; official 0.9, and so is the default.
  config.optimizer.decay = placeholder(float)
  # 'rmsprop_tf': whether the momentum sums learning rate times direction, as
  # TensorFlow 1 does and the default is, or the directions (official).
  config.optimizer.lr_in_momentum = placeholder(bool)
  # 'adamw', 'lion', ...
  config.optimizer.b1 = placeholder(float)
  config.optimizer.b2 = placeholder(float)
  # 'adamw', 'rmsprop_tf', ...: 'rmsprop_tf' has the official 0.001.
  config.optimizer.eps = placeholder(float)
  # Largest global norm of the averaged gradient; 0 is no clipping. Official
  # [gradient_clipping]: 5.
  config.gradient_clipping = 5.0
  config.ema = ml_collections.ConfigDict()
  # Decay of the moving average of parameters and BatchNorm statistics, which is
  # then evaluated, in [0, 1); 0 keeps none. Official [ema_decay]: 0.
  config.ema.decay = 0.0
  # Updates before it begins. Official: 1560, five epochs of ImageNet.
  config.ema.warmup_steps = 0

  # --- Regularization --------------------------------------------------------
  config.weight_decay = ml_collections.ConfigDict()
  # Official [weight_decay]: 0.001.
  config.weight_decay.rate = 5e-4
  # 'loss': 0.5 rate |w|^2 in both losses, the perturbation's too (official);
  # 'descent': in the second only; 'gradient': added to the clipped gradient;
  # 'decoupled': left to the optimizer (adamw, lion).
  config.weight_decay.place = 'loss'
  # Parameters that are not decayed: a regular expression searched for in their
  # paths. '' decays all (official); '(scale|bias)$' spares BatchNorm and
  # biases (official [no_weight_decay_on_bn]).
  config.weight_decay.exclude = ''
  # Share of the target spread over all classes. Official [label_smoothing]: 0.
  config.label_smoothing = 0.0

  # --- A loss, gradient or update that is NaN or infinite ---------------------
  # 'stop' ends the run. 'skip' leaves parameters, BatchNorm statistics and all
  # states as they were before that step, and takes the next batch.
  config.on_nonfinite = 'stop'
  # 'skip': steps in a row that are skipped before the run ends.
  config.max_skipped_steps = 10
  # Fields that may differ from those of the run in the directory when it is
  # resumed, such as ('learning_rate', 'method.rho') after it has ended so. Its
  # result.json says what was changed, and at which step.
  config.allow_change = ()

  # --- Precision -------------------------------------------------------------
  # Of activations in training: 'float32' or 'bfloat16'. Parameters, and
  # evaluation, are float32. Rounding may destroy a small perturbation: what is
  # left of it is logged.
  config.compute_dtype = 'float32'
  # Of what multiplications see of float32, in training and evaluation:
  # 'float32', 'tensorfloat32' or 'bfloat16' (on a GPU TensorFloat-32 too). None
  # is the device's own: TensorFloat-32 on GPUs that have it, bfloat16 on TPUs,
  # whatever JAX is set to; the paper's CIFAR runs, on V100, had float32.
  config.matmul_precision = placeholder(str)

  # --- Where it runs; results do not depend on it, up to rounding ------------
  # 'shard_map', or 'pmap' as the official release.
  config.parallel = 'shard_map'
  # Devices that share one copy of the parameters and of all states, for models
  # that do not fit on one (FSDP). They work together on each perturbation, so
  # that it must divide microbatch_size. 1 has a copy on each device. Not for
  # models with BatchNorm.
  config.fsdp = 1
  # How a device walks its microbatches: 'scan' (the memory of one), 'unroll' (a
  # copy of the program for each), 'vmap' (all at once).
  config.microbatch_loop = 'scan'

  # --- Evaluation, checkpoints, log; may change when a run resumes -----------
  # Epochs between evaluations; the end is always evaluated. Official
  # [evaluate_every]: 1.
  config.eval_every_epochs = 1
  # Whether to evaluate on the (noisy) training set too.
  config.eval_train = False
  config.checkpoint = ml_collections.ConfigDict()
  # Epochs between checkpoints; the end is always saved. Official
  # [save_ckpt_every_n_epochs]: 20.
  config.checkpoint.every_epochs = 10
  # Steps between checkpoints; if given, counts instead of every_epochs.
  config.checkpoint.every_steps = placeholder(int)
  # How many of the newest to keep.
  config.checkpoint.max_to_keep = 2
  # Whether to keep the one with the lowest score too. Costs a copy of the
  # state on the device while an evaluation is pending.
  config.checkpoint.keep_best = True
  # Epochs after which to save a checkpoint that is kept for ever. Official
  # [additional_checkpoints_at_epochs].
  config.checkpoint.at_epochs = ()
  config.log = ml_collections.ConfigDict()
  # Steps between lines with the metrics of that one step; 0 is none. Means
  # over each epoch are always logged.
  config.log.every_steps = 0
  # Whether to write TensorBoard events beside metrics.jsonl.
  config.log.tensorboard = True
  # Where the lines of metrics.jsonl go besides: 'wandb', 'mlflow', or a writer
  # of one's own (`sam_jax.runs.writers`). What a writer needs to know, such as
  # a project or a server, is in its own settings.
  config.log.writers = ()
  # Seconds between progress lines where there is no terminal.
  config.log.progress_seconds = 30.0
  return config

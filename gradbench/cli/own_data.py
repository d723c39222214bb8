"""The section of ``conf/README.md`` on data of a user's own; a test runs its examples."""

OWN_DATA = """`data=npz`, `csv`, `parquet`, `images`, `pairs`, `torchvision`, `huggingface` and `loader` read what you
have. Their keys are in the tables [below](#data).

- The model says what is learned from it: `classifier` and `mlp` classes, `regressor` numbers, `wgan` inputs alone; for
  another model add `data.targets=classes`, `numbers` or `none`, or write `targets: classes` into its YAML file. Classes
  are texts, which are numbered in sorted order, or 0, 1, 2, …
- Test examples are those that the source has. Where it has none, `data.test_share=0.2` of the examples, of each class,
  are kept for testing: the same for every cell, by `data.split_seed=0`.
- `data.standardise=inputs` gives each column or channel mean 0 and variance 1 over the training examples, `both` also
  the numbers to predict. A table has `both` unless you type `none`.
- A network gets `inputs` (numbers of an example), `shape` (of an example) and `outputs` (classes, or numbers to
  predict) where its signature has them.
- Everything is checked before anything is trained: a value that is no number, a label that is no class, a missing
  column, an image of another size end the command with one line that names the place and the value, and with exit
  status 2. Try it with `--dry-run`.
- The content of the data is part of a cell's id, where it lies is not. If it changes between plan and training, its
  cells fail with that reason, and the same command again trains cells of the new content.

### Arrays

An example keeps its shape. Inputs become float32; bytes are divided by 255, as pixels; other whole numbers stay whole,
as for `nn.Embedding`. Arrays `x_test` and `y_test` are the test examples, if there are any.

```python
# make_arrays.py: run it once
import numpy as np

y = np.arange(200) % 2
x = np.random.default_rng(0).random((200, 3, 16, 16)) + 0.1 * y[:, None, None, None]
np.savez("mine.npz", x=x, y=y)
```

```python
# my_net.py
from torch import nn


class CNN(nn.Module):
    def __init__(self, shape, outputs):
        super().__init__()
        self.convolution = nn.Conv2d(shape[0], 8, 3)
        self.linear = nn.Linear(8, outputs)

    def forward(self, x):
        return self.linear(self.convolution(x).relu().mean(dim=(2, 3)))
```

```sh
gradbench run model=classifier model.network=my_net.CNN data=npz data.path=mine.npz regularizer=none,clip_norm
```

Arrays of other names: `data.input=images data.target=labels data.test_input=more data.test_target=theirs`.

### A table

Columns of texts are one-hot encoded by all texts of the file, and a line says so. All columns but the target are
inputs unless `data.input=[rooms,city]` names them. Missing values are refused unless `data.missing=mean` (of the
training rows) or `data.missing=drop`.

```python
# make_table.py: run it once
import numpy as np
import pandas as pd

random = np.random.default_rng(0)
frame = pd.DataFrame({"rooms": random.integers(1, 6, 300), "city": random.choice(["Bonn", "Ulm"], 300)})
frame["price"] = 50_000 * frame["rooms"] + 80_000 * (frame["city"] == "Bonn")
frame.to_csv("mine.csv", index=False)
```

```python
# my_mlp.py
from torch import nn


class MLP(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(inputs, 32), nn.Tanh(), nn.Linear(32, outputs))

    def forward(self, x):
        return self.layers(x)
```

```sh
gradbench run model=regressor model.network=my_mlp.MLP data=csv data.path=mine.csv data.target=price
gradbench run model=mlp data=csv data.path=mine.csv data.target=city regularizer=none,clip_norm
```

### Images in folders

A folder per class; or folders `train` and `test`, with a folder per class each. `data.size=32` resizes all images,
`data.mode=L` or `RGB` converts them.

```python
# make_images.py: run it once
from pathlib import Path

import numpy as np
from PIL import Image

random = np.random.default_rng(0)
for name, low in (("dark", 0), ("bright", 100)):
    Path("pictures", name).mkdir(parents=True)
    for index in range(60):
        pixels = random.integers(low, low + 150, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(Path("pictures", name, f"{index}.png"))
```

```sh
gradbench run model=classifier model.network=my_net.CNN data=images data.path=pictures regularizer=none,clip_norm
```

### A function

It returns arrays or tensors as `(x, y)`, as `(x, y, x_test, y_test)` or as `{"x": x, "y": y}`, with `x` [N, ...] and
`y` [N] or [N, ...]; or a DataFrame, whose target `data.target` names; or a `gradbench.data.Data`, which is taken as it
is. It must return the same each time, since each worker calls it.

```python
# my_data.py
import torch


def load(count=300):
    random = torch.Generator().manual_seed(0)
    x = torch.randn(count, 5, generator=random)
    return x, (x[:, 0] > x[:, 1]).long()
```

```sh
gradbench run model=mlp data=loader data.loader=my_data.load data.loader.count=500 regularizer=none,clip_norm
```

### Pairs of texts

A text and its translation per line, with a tab between them. A line that is no pair is named by its number. All pairs
of one source are trained on, or all are kept for testing.

```python
# make_pairs.py: run it once
from pathlib import Path

lines = [f"{a} plus {b}\\t{a + b}" for a in range(30) for b in range(30)]
Path("mine.tsv").write_text("\\n".join(lines), encoding="utf-8")
```

```sh
gradbench run model=translation data=pairs data.path=mine.tsv regularizer=none,clip_norm
```

### Data sets by name

`data=torchvision data.source=SVHN` takes any of torchvision's labelled images. `data=huggingface` needs
`pip install 'gradbench[huggingface]'`; no code of a data set is run:

```sh
gradbench run model=mlp data=huggingface data.source=ylecun/mnist data.input=image data.target=label
```"""

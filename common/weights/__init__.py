"""Weight files: from the bytes of any known format to the parameters of a model.

- `read_weights` (load.py) gives the arrays of a file. formats.py finds the format; torch_format,
  numpy_format and safetensors_format read one each, unpickle.py and what it uses read pickles,
  all at a bounded cost (core/bounds.py). containers.py finds the weights in a checkpoint.
- `load_pretrained` (load.py) puts them into a model. dialects.py gives them the model's names and
  layouts, classifier_head.py handles other classes, and checkpoint_config.py takes what a
  checkpoint of this project says about itself. identify.py says which model a file is for.

It may import core, config and layers, and knows neither the registry of the models nor training;
where a message needs the registry, common.zoo hands in a function.
"""

"""Published weights by name: from a reference (hub, hub:TAG, https://..., hf:OWNER/NAME) to a file.

- references.py says what a reference is, registry.py reads the lists of published weights (the
  families' weights.yaml), fetch.py gives the local file of a reference: every tool calls it
  through common.zoo.
- cache.py is the folder of what was downloaded, with locks and pinned hashes; download.py gets a
  URL (httpx), huggingface.py a file of the Hugging Face hub (huggingface_hub).

It may import core, and reads no weights: that is the business of weights/.
"""

"""Images in archives: read where they lie, nothing is unpacked.

- `members.py`: what a .tar (also of tars) or a .zip has in it, and where each member's bytes are.
- `draft.py`, `index.py`: an index of a data set while it is made, and as a file that is mapped into
  memory: all processes of a machine share it.
- `source.py`: the images of an index, one read of the file for each.
- `places.py`: which of a data set's folders are archives; `recognise.py`: which layout they have.
- `making.py`: how an index is made; of `lists.py`, `folders.py`, and `webdataset.py`: shards with
  their labels in them.
- `pack.py`: writes such shards.
"""

"""Which files of a folder count as images, by their names, and what is said about the others."""
from common.core.errors import complain_once, printable

# Of class folders: torchvision's. The images of a data set are numbered, so that an ending more
# would make another data set of the same folder.
EXTENSIONS = ('.jpg', '.jpeg', '.png', '.ppm', '.bmp', '.pgm', '.tif', '.tiff', '.webp')
EXPECTED = f'expected files with {", ".join(EXTENSIONS)}'
# Of folders that are predicted or drawn: what Pillow reads, most builds of it at least.
READABLE = (*EXTENSIONS, '.jpe', '.jfif', '.mpo', '.gif', '.apng', '.pbm', '.pnm', '.jp2', '.j2k',
            '.jpf', '.jpx', '.jpc', '.j2c', '.avif')
SHOWN = 5  # names of files that were passed over


def is_image(name, extensions=READABLE):
    """Whether a file's name ends as an image's does."""
    return name.lower().endswith(extensions)


def is_hidden(name):
    """Whether a name is hidden, as `._a.png` is, too, in which macOS keeps notes on a.png."""
    return name.startswith('.')


class PassedOver:
    """Counts the files of folders that are no images, and names some of them."""

    def __init__(self):
        self.count = 0
        self.names = []

    def add(self, path):
        """Counts a file."""
        self.count += 1
        if len(self.names) < SHOWN:
            self.names.append(printable(path))

    def __str__(self):
        more = ', ...' if self.count > len(self.names) else ''
        return (f'passed over {self.count} that are not named as images: '
                f'{", ".join(sorted(self.names))}{more}')

    def say(self):
        """One line on standard error, if there were any."""
        if self.count:
            complain_once(str(self))

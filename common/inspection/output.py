"""Where pictures go."""
import os

from common.core.errors import InputError, printable, say
from common.core.figures import save
from common.core.flags import check_output, check_output_folder


class Output:
    """One PNG file, or a folder with a file for each name.

    Args:
        path: value of the flag -output.

    Raises:
        InputError: nothing can be written there.
    """

    def __init__(self, path):
        self.path = path
        self.is_folder = os.path.isdir(path) or not os.path.splitext(path)[1]
        if self.is_folder:
            check_output_folder('output', path)
        elif path.lower().endswith('.png'):
            check_output('output', path)
        else:
            raise InputError(f'-output: got {path}, expected a name that ends with .png, or a '
                             f'folder')
        self.used = set()

    def file(self, name):
        """The file for a picture; with two pictures of one name the second is NAME_2."""
        if not self.is_folder:
            return self.path
        os.makedirs(self.path, exist_ok=True)
        number, free = 1, name
        while free in self.used:
            number += 1
            free = f'{name}_{number}'
        self.used.add(free)
        return os.path.join(self.path, f'{free}.png')

    def save(self, figure, name):
        """Writes a figure, and says so."""
        file = self.file(name)
        save(figure, file)
        say(f'{printable(file)}: written')

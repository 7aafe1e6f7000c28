"""Checks train_list.txt and val_list.txt of a data set, and writes them from folders or a table.

paddle-vitae verify PATH             checks the lists, and that the files exist; without lists
                                     what a training finds in class folders or a table
paddle-vitae verify PATH -decode     decodes the images, too, and compares contents
paddle-vitae verify PATH -write      first writes the lists that are missing, and class_names.txt,
                                     from PATH/train/CLASS/ and PATH/val/CLASS/, from PATH/CLASS/,
                                     or from a csv file in PATH with a path and a class a line
    -leave_out                       ... without the images that cannot be decoded
    -val_labels FILE                 ... or from images in PATH/val/ itself
    -ids map_clsloc.txt              ... with the numbers of ImageNet's
                                         ILSVRC2012_validation_ground_truth.txt

FILE holds lines 'name,label' (also ImageNet's LOC_val_solution.csv), or one label a line for the
sorted names. A label is the name of a class folder, or its number in their sorted order, from 0.
PATH may have archives in place of folders, or be one (docs/scale.md). The exit code is 0 if all is
well, else 1.
"""
import sys
from functools import partial

from common.core.errors import InputError, errors_of_a_tool
from common.core.flags import add_flag, check_least, tool_parser
from common.data.verify import verify
from common.data.write_lists import write_lists


def main(argv=None):
    parser = tool_parser('verify', __doc__, 'digits -decode')
    add = partial(add_flag, parser)
    parser.add_argument('path', metavar='PATH',
                        help='folder of the data set, a csv file or an archive')
    add('decode', 'decode every image', action='store_true')
    add('workers', 'processes that decode; default: one for each core', type=int, metavar='N')
    add('num_classes', 'default: the largest training label + 1', type=int, metavar='N')
    add('multi_label', "several labels for an image or none: lists with 'path 0,3,7' and 'path -', "
        "tables with 'path,Dog|cat' and 'path,-'",
        action='store_true')
    add('write', 'write the lists that are missing', action='store_true')
    add('force', 'with -write: replace those that exist', action='store_true')
    add('val_fraction', 'with -write: fraction of each class for validation where the data have no '
        'split of their own; default 0.1', type=float, metavar='X')
    add('leave_out', 'with -write: leave out images that cannot be decoded', action='store_true')
    add('val_labels', 'with -write: labels of the images in PATH/val/', metavar='FILE')
    add('ids', 'with -val_labels: classes of the numbers there', metavar='FILE')
    args = parser.parse_args(argv)
    with errors_of_a_tool():
        check_least(args, workers=1, num_classes=1)
        if args.write:
            write_lists(args.path, args.val_labels, args.ids, args.force, args.val_fraction,
                        args.leave_out, args.multi_label)
        elif args.force or args.val_labels or args.ids or args.val_fraction or args.leave_out:
            raise InputError('-force, -val_labels, -ids, -val_fraction, -leave_out: got one of '
                             'them without -write')
        well = verify(args.path, args.decode, args.workers, args.num_classes,
                      args.multi_label).report()
    sys.exit(0 if well else 1)


if __name__ == '__main__':
    main()

"""Packs a data set into a few large files, which a training reads as fast, or faster.

paddle-vitae pack SOURCE OUT                    train/ and val/ of what -data_path may be
paddle-vitae pack FOLDER/train_list.txt OUT     the images of one list
    -shard_size 1G                              most bytes of a file; K, M or G is 1024 of the next
    -resize 512 -quality 95                     images whose shorter side has more pixels are made
                                                smaller once, and written as JPEG

OUT gets WebDataset shards (train-000000.tar: KEY.jpg and KEY.cls), class_names.txt, pack.json and
the index. Each shard is read again. A start that was stopped goes on when the command is repeated;
the files are the same, byte for byte, whatever the number of -workers or starts.
"""
from functools import partial

from common.core.errors import InputError, errors_of_a_tool
from common.core.flags import (
    add_flag,
    byte_size,
    check_least,
    check_output_folder,
    tool_parser,
)
from common.data.archives.pack import pack


def main(argv=None):
    parser = tool_parser('pack', __doc__, 'digits packed -shard_size 1M')
    add = partial(add_flag, parser)
    parser.add_argument('source', metavar='SOURCE',
                        help='folder of the data set, a list, a csv file or an archive')
    parser.add_argument('out', metavar='OUT', help='folder, new or of the same command before')
    add('shard_size', 'most bytes of a shard, default 1G', default='1G', metavar='SIZE')
    add('resize', 'pixels of the shorter side of larger images; default: bytes stay as they are',
        type=int, metavar='N')
    add('quality', 'with -resize: of the JPEG files, 1 to 95, default 95', type=int, metavar='N')
    add('val_fraction', 'fraction of each class for validation where the data have no split of '
        'their own; default 0.1', type=float, metavar='X')
    add('workers', 'processes that read and resize, default 1', type=int, default=1, metavar='N')
    args = parser.parse_args(argv)
    with errors_of_a_tool():
        check_least(args, resize=1, quality=1, workers=1)
        if args.quality is not None and (args.quality > 95 or not args.resize):
            raise InputError(f'-quality: got {args.quality}, expected 1 to 95, with -resize')
        if args.val_fraction is not None and not 0 < args.val_fraction < 1:
            raise InputError(f'-val_fraction: got {args.val_fraction}, expected more than 0 and '
                             f'less than 1')
        check_output_folder('out', args.out)
        size = byte_size('shard_size', args.shard_size, '500M or 1G')
        pack(args.source, args.out, size, args.resize, args.quality or 95, args.val_fraction,
             args.workers)


if __name__ == '__main__':
    main()

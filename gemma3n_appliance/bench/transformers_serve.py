"""``transformers serve`` with its own arguments, where torchvision had to be made importable first."""

import sys

from transformers.cli.transformers import main

if __name__ == "__main__":
    sys.argv[1:1] = ["serve"]
    main()

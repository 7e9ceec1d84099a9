"""`python -m keras_ddim`: the same as `keras-ddim`."""

import sys

from keras_ddim.cli import main

sys.exit(main())

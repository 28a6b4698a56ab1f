"""What PyTorch was built with."""

from standin import FACTS

cuda = FACTS["cuda"]

"""What holds for all tests."""

import os

# Before gRPC is imported: its handlers of fork() are in the way of starting other programs, and
# kill some of them.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"

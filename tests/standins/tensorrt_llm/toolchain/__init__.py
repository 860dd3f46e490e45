"""What the stand-ins of the image run: linked into it as the package `stand_in_toolchain`."""

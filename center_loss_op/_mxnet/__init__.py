"""What has to be done because of MXNet 1.9.1: importing it, its engine, the end of a process."""

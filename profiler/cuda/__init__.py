"""What calls of CUDA and NCCL were about."""

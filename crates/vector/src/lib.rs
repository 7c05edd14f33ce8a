//! Slices in, neighbours out: distance kernels, quantization, exact scan, graph index, segments.

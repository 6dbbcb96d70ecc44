"""Training data: photographs, streams of crops, batches, augmentation."""

"""A small convolutional network, for comparison with a Vision Transformer of the same size."""

from torch import nn

from . import arguments


class SmallCNN(nn.Sequential):
    """Images float (B, 3, 64, 64) -> logits (B, num_classes); 0.58 million parameters.

    Four stages of two 3x3 convolutions, each followed by batch norm and ReLU; the first of a stage halves the image.
    The answer comes from the mean over all places, as in a ViT with mean pooling.
    """

    def __init__(self, num_classes=10, widths=(32, 64, 128, 128)):
        if not isinstance(widths, (tuple, list)):
            raise TypeError(f"widths must be a list of whole numbers, not {arguments.told(widths)}")
        arguments.whole(1, num_classes=num_classes, **{f"widths[{i}]": width for i, width in enumerate(widths)})
        layers, last = [], 3
        for width in widths:
            for channels, stride in ((last, 2), (width, 1)):
                layers += [nn.Conv2d(channels, width, 3, stride, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            last = width
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(last, num_classes))

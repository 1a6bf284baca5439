"""The plain program that many tutorials teach, as a baseline: it decodes its images anew in every epoch."""

from time import perf_counter

import torch
import torchvision.transforms as T
from torch import nn
from torch.utils.data import DataLoader, Subset
from torchvision.datasets import EuroSAT


class PlainViT(nn.Module):
    """Post-norm `nn.TransformerEncoder`, CLS token, random positions: (B, 3, 64, 64) -> logits (B, 10)."""

    def __init__(self, img_size=64, patch_size=8, num_classes=10, embed_dim=128, depth=4, num_heads=4,
                 mlp_dim=256):
        super().__init__()
        self.patch_embed = nn.Conv2d(3, embed_dim, kernel_size=patch_size, stride=patch_size)
        self.cls_token = nn.Parameter(torch.randn(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(torch.randn(1, 1 + (img_size // patch_size) ** 2, embed_dim))
        layer = nn.TransformerEncoderLayer(embed_dim, num_heads, mlp_dim, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, depth)
        self.head = nn.Linear(embed_dim, num_classes)

    def forward(self, images):
        x = self.patch_embed(images).flatten(2).transpose(1, 2)                      # (B, N, D)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)             # (B, N+1, D)
        return self.head(self.encoder(x + self.pos_embed)[:, 0])


def train_plain(root, train_index, test_index, epochs=5, seed=0, device="cpu"):
    """Train PlainViT on the JPEG files in `root`, Adam 1e-3, batches of 64; yield (seconds, test accuracy).

    The clock stops during the tests. `train_index`, `test_index`: positions in torchvision's EuroSAT.
    """
    clock = -perf_counter()
    torch.manual_seed(seed)
    transform = T.Compose([T.Resize(64), T.ToTensor(), T.Normalize([0.5] * 3, [0.5] * 3)])
    data = EuroSAT(root, transform=transform)
    train_loader = DataLoader(Subset(data, train_index), batch_size=64, shuffle=True)
    test_loader = DataLoader(Subset(data, test_index), batch_size=64)
    model = PlainViT().to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(epochs):
        model.train()
        for images, labels in train_loader:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(images.to(device)), labels.to(device))
            loss.backward()
            optimizer.step()
        clock += perf_counter()
        model.eval()
        with torch.no_grad():
            hits = [(model(x.to(device)).argmax(dim=1).cpu() == y).float() for x, y in test_loader]
        yield clock, torch.cat(hits).mean().item()
        clock -= perf_counter()

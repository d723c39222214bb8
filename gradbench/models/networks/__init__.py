"""Networks: ordinary ``nn.Module``s, each written for one cell.

They know no data, loss or metric."""

"""Networks: ordinary ``nn.Module``s, each written for one network. They know no data, loss or metric."""

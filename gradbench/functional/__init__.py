"""Small pure functions that every part which computes needs: flat parameters, gradients of inputs, seeds, devices.

They know tensors and modules. They never know cells, configs or files.
"""

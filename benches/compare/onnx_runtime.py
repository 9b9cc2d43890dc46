#!/usr/bin/env python3
"""ONNX Runtime beside us: EfficientNet-Lite0 in f32, ViT-B/32 in int8.

EfficientNet-Lite0 has its real weights (`--models`), ViT-B/32 random ones. PyTorch exports them; for int8 `quantize_dynamic` makes weights of 8 bits, one scale for each row of a
weight or one for all of it, and activations are rounded as they come; the quicker counts.
"""
import side

args = side.arguments(__doc__, batch={"type": int, "default": 32})

import numpy as np  # noqa: E402  (threads are read at import)
import onnxruntime as ort  # noqa: E402
import torch  # noqa: E402

torch.set_num_threads(args.threads)
torch.manual_seed(0)
table = side.Table(args)


def export(module, example, path):
    torch.onnx.export(module.requires_grad_(False).eval(), (example,), str(path), input_names=["x"], output_names=["y"], dynamo=False)


def session(path):
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = args.threads, 1
    opened = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda x: opened.run(None, {"x": x})[0]


def write(folder, images):
    images.permute(0, 2, 3, 1).contiguous().numpy().tofile(folder / "images.f32")
    return images.numpy()


def efficientnet(folder):
    from efficientnet_lite_pytorch import EfficientNet

    name = f"EfficientNet-Lite0, batch {args.batch}, f32"
    if not table.wants(name):
        return
    model = args.models / "efficientnet-lite0"
    network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=str(next(model.glob("*.pth"))))

    class Rows(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network.requires_grad_(False)

        def forward(self, x):
            return self.network.extract_features(x).mean((2, 3))

    images = torch.randn(args.batch, 3, 224, 224)
    x = write(folder, images)
    export(Rows(), images, folder / "lite0.onnx")
    theirs, ours = session(folder / "lite0.onnx"), side.ours(args, "embed", model, folder, "f32")
    ours.ask("dump")
    expected = theirs(x)
    note = side.agree(name, np.fromfile(folder / "images.out", dtype=np.float32).reshape(expected.shape), expected, 0.9999)
    rows, fast = Rows().eval(), images.to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def eager():
        rows(fast)

    peers = {"ONNX Runtime": side.timed(lambda: theirs(x)), "PyTorch, channels last": side.timed(eager)}
    # 0.39 G multiply-adds a picture of 224 pixels
    table.row(name, "pictures/s", args.batch, ours.turn("images"), peers, 1.0, 2 * 0.386e9 * args.batch, ours.peak, note)
    ours.close()


def vit(folder):
    import clip_folder
    from onnxruntime.quantization import QuantType, quantize_dynamic

    name = f"ViT-B/32 image embedding, batch {args.batch}, int8"
    if not table.wants(name):
        return
    model, _ = clip_folder.write(folder / "model")
    images = torch.randn(args.batch, 3, 224, 224)
    x = write(folder, images)
    torch.backends.mha.set_fastpath_enabled(False)  # what it would export cannot be read
    export(model.visual, images, folder / "vit.onnx")
    peers, exact = {}, session(folder / "vit.onnx")
    expected = exact(x)
    for what, channels in (("a scale a weight", False), ("a scale a channel", True)):
        quantize_dynamic(str(folder / "vit.onnx"), str(folder / "vit8.onnx"), weight_type=QuantType.QInt8, per_channel=channels)
        run = session(folder / "vit8.onnx")
        peers[f"ONNX Runtime, int8, {what} (cosine ≥ {side.cosine(run(x), expected):.4f})"] = side.timed(lambda run=run: run(x))
    peers["ONNX Runtime, f32"] = side.timed(lambda: exact(x))
    ours = side.ours(args, "embed", folder / "model", folder, "int8")
    ours.ask("dump")
    note = side.agree(name, np.fromfile(folder / "images.out", dtype=np.float32).reshape(expected.shape), expected, 0.999)
    table.row(name, "pictures/s", args.batch, ours.turn("images"), peers, 1.2, note=note)
    ours.close()


with side.folder() as temporary:
    place = side.pathlib.Path(temporary)
    efficientnet(place)
    vit(place)

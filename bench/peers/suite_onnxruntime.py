"""ONNX Runtime beside `quern bench suite`: forward cases as ONNX models; the protocol is that of serve.py.

All graph optimizations, inputs and outputs bound to memory beforehand, parameters as initializers (it may pack them).
"""
from serve import Prepared, data_of, mean_abs, serve

CASES = {}   # op → (request, inputs' shapes) → (nodes, constants by name: integers or one number, output's shape)


def case(f):
    CASES[f.__name__] = f
    return f


def node(kind, inputs, output, **attributes):
    from onnx import helper
    return helper.make_node(kind, inputs.split(), [output], **attributes)


@case
def matmul(request, a, b):
    ta, tb = (int(c == "t") for c in request["layout"])
    kind = node("Gemm", "x0 x1", "y", transA=ta, transB=tb) if ta or tb else node("MatMul", "x0 x1", "y")
    return [kind], {}, [a[ta], b[1 - tb]]


@case
def softmax(request, x):
    return [node("Softmax", "x0", "y", axis=-1)], {}, x


@case
def layer_norm(request, x, w, b):
    return [node("LayerNormalization", "x0 x1 x2", "y", axis=-1, epsilon=1e-5)], {}, x


@case
def sum0(request, x):
    return [node("ReduceSum", "x0 axes", "y", keepdims=0)], {"axes": [0]}, x[1:]


@case
def sum1(request, x):
    return [node("ReduceSum", "x0 axes", "y", keepdims=0)], {"axes": [1]}, x[:1]


@case
def transpose(request, x):
    return [node("Transpose", "x0", "y", perm=[1, 0])], {}, x[::-1]


@case
def chain_tanh(request, a, b):
    return [node("Mul", "x0 two", "p"), node("Add", "p x1", "q"), node("Relu", "q", "r"), node("Tanh", "r", "s"), node("Mul", "s x0", "y")], {"two": 2.0}, a


@case
def chain_sigmoid(request, a, b, c):
    return [node("Mul", "x0 x1", "p"), node("Add", "p x2", "q"), node("Sigmoid", "x0", "r"), node("Mul", "q r", "s"), node("Sub", "s x1", "y")], {}, a


@case
def chain_exp(request, a):
    return [node("Mul", "x0 x0", "p"), node("Neg", "p", "q"), node("Exp", "q", "r"), node("Mul", "r half", "s"), node("Abs", "x0", "t"), node("Add", "s t", "y")], {"half": 0.5}, a


@case
def residual(request, x):
    def conv(i, source, to):
        return node("Conv", f"{source} conv{i}.weight conv{i}.bias", to, pads=[1, 1, 1, 1])
    return [conv(0, "x0", "p"), node("Relu", "p", "q"), conv(1, "q", "r"), node("Add", "r x0", "s"), node("Relu", "s", "y")], {}, x


@case
def decode(request, token):
    """One token through all layers; a block's caches are initializers, too."""
    nodes, constants, count = [], {"one": [1, 1, -1], "place": [request["past"]], "axes1": [0]}, [0]

    def add(kind, inputs, **attributes):
        count[0] += 1
        nodes.append(node(kind, inputs, f"t{count[0]}", **attributes))
        return f"t{count[0]}"

    def dense(x, name):
        return add("Add", f"{add('MatMul', f'{x} {name}.weight')} {name}.bias")

    def norm(x, name):
        return add("LayerNormalization", f"{x} {name}.scale {name}.shift", axis=-1, epsilon=1e-5)
    heads, width = request["heads"], request["width"]
    constants.update({"split": [1, 1, heads, width // heads], "join": [1, 1, width], "scale": (width // heads) ** -0.5, "half": 0.5, "root": 0.5**0.5, "unit": 1.0})
    for i in range(3):
        constants.update({f"from{i}": [i * width], f"to{i}": [(i + 1) * width]})
    constants["last"] = [2]
    x = add("Reshape", f"{add('Add', '{} {}'.format(add('Gather', 'token.table x0'), add('Gather', 'place.table place')))} one")
    for layer in range(request["layers"]):
        b = f"block{layer}"
        qkv = dense(norm(x, b + ".norm0"), b + ".qkv")
        q, k, v = (add("Transpose", add("Reshape", f"{add('Slice', f'{qkv} from{i} to{i} last')} split"), perm=[0, 2, 1, 3]) for i in range(3))
        k, v = (add("Concat", f"{b}.{n}.cache {s}", axis=2) for n, s in (("k", k), ("v", v)))
        scores = add("Mul", f"{add('MatMul', '{} {}'.format(q, add('Transpose', k, perm=[0, 1, 3, 2])))} scale")
        mixed = add("Reshape", f"{add('Transpose', add('MatMul', '{} {}'.format(add('Softmax', scores, axis=-1), v)), perm=[0, 2, 1, 3])} join")
        x = add("Add", f"{x} {dense(mixed, b + '.out')}")
        up = dense(norm(x, b + ".norm1"), b + ".up")
        gelu = add("Mul", "{} {}".format(add("Mul", f"{up} half"), add("Add", "{} unit".format(add("Erf", add("Mul", f"{up} root"))))))
        x = add("Add", f"{x} {dense(gelu, b + '.down')}")
    nodes.append(node("Gemm", f"{add('Squeeze', norm(x, 'norm') + ' axes1')} token.table", "y", transB=1))
    return nodes, constants, [1, request["vocabulary"]]


def load(threads, variant):
    import numpy as np
    import onnx
    import onnxruntime as ort
    from onnx import helper, numpy_helper
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3

    def prepare(request):
        if request["op"] not in CASES or request["trains"]:
            return None
        arrays, values = data_of(request)
        nodes, constants, shape = CASES[request["op"]](request, *(list(x.shape) for x in arrays[0]))
        kinds = {"f": onnx.TensorProto.FLOAT, "i": onnx.TensorProto.INT32}
        inputs = [helper.make_tensor_value_info(f"x{i}", kinds[x.dtype.kind], x.shape) for i, x in enumerate(arrays[0])]
        graph = helper.make_graph(nodes, "case", inputs, [helper.make_tensor_value_info("y", kinds["f"], shape)],
                                  [numpy_helper.from_array(v, k) for k, v in values.items()] + [numpy_helper.from_array(np.array(v, np.float32 if isinstance(v, float) else np.int64), k) for k, v in constants.items()])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        y = ort.OrtValue.ortvalue_from_shape_and_type(shape, np.float32, "cpu")
        bindings = []
        for s in arrays:
            binding = session.io_binding()
            for i, x in enumerate(s):
                binding.bind_ortvalue_input(f"x{i}", ort.OrtValue.ortvalue_from_numpy(x))
            binding.bind_ortvalue_output("y", y)
            bindings.append(binding)

        def run(i):
            session.run_with_iobinding(bindings[i % len(bindings)])
        run(0)
        return Prepared(run, mean_abs(y.numpy()))
    return f"ONNX Runtime {ort.__version__}, {variant}", prepare


if __name__ == "__main__":
    serve(load)

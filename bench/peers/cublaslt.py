"""cuBLASLt's products, called through ctypes: every algorithm that its heuristic proposes is timed, and the fastest is the peer.

PyTorch holds the tensors and the stream. Rows of a matrix are columns to the library, so it is asked for y^T = b^T a^T.
"""
import ctypes

PROPOSALS = 8
WORKSPACE = 64 << 20   # bytes, as the library's guide proposes for this class of GPU
OP_N, OP_T = 0, 1                                             # cublasOperation_t
TRANSA, TRANSB, MAX_WORKSPACE = 3, 4, 1                       # cublasLtMatmulDescAttributes_t, …PreferenceAttributes_t
COMPUTE_F32, COMPUTE_TF32 = 68, 77                            # cublasComputeType_t
TYPES = {"torch.float32": 0, "torch.float16": 2, "torch.bfloat16": 14}   # cudaDataType_t


class Proposal(ctypes.Structure):   # cublasLtMatmulHeuristicResult_t
    _fields_ = [("algo", ctypes.c_uint64 * 8), ("workspace", ctypes.c_size_t), ("state", ctypes.c_int), ("waves", ctypes.c_float), ("reserved", ctypes.c_int * 4)]


class Library:
    def __init__(self, torch):
        self.torch = torch
        torch.cuda.current_blas_handle()   # PyTorch loads the library
        self.lib = ctypes.CDLL("libcublasLt.so.13" if torch.version.cuda.startswith("13") else "libcublasLt.so.12")
        self.lib.cublasLtGetVersion.restype = ctypes.c_size_t
        self.handle = self.made("cublasLtCreate")
        self.workspace = torch.empty(WORKSPACE, dtype=torch.uint8, device="cuda")

    def call(self, name, *args):
        status = getattr(self.lib, name)(*args)
        if status:
            raise RuntimeError(f"{name} gave status {status}")

    def made(self, name, *args):
        out = ctypes.c_void_p()
        self.call(name, ctypes.byref(out), *args)
        return out

    def product(self, a, b, ta, tb, tf32=False):
        """→ functions (a, b, y) → None that compute y = a b, by the heuristic's order."""
        m, k, n = a.shape[ta], a.shape[1 - ta], b.shape[1 - tb]
        dtype = TYPES[str(a.dtype)]
        desc = self.made("cublasLtMatmulDescCreate", COMPUTE_TF32 if tf32 else COMPUTE_F32, TYPES["torch.float32"])
        for attribute, transposed in ((TRANSA, tb), (TRANSB, ta)):
            self.call("cublasLtMatmulDescSetAttribute", desc, attribute, ctypes.byref(ctypes.c_int32(OP_T if transposed else OP_N)), ctypes.c_size_t(4))
        layouts = [self.made("cublasLtMatrixLayoutCreate", dtype, *(ctypes.c_int64(x) for x in (columns, rows, columns)))
                   for rows, columns in (b.shape, a.shape, (m, n))]
        preference = self.made("cublasLtMatmulPreferenceCreate")
        self.call("cublasLtMatmulPreferenceSetAttribute", preference, MAX_WORKSPACE, ctypes.byref(ctypes.c_uint64(WORKSPACE)), ctypes.c_size_t(8))
        found, proposals = ctypes.c_int(), (Proposal * PROPOSALS)()
        self.call("cublasLtMatmulAlgoGetHeuristic", self.handle, desc, *layouts, layouts[2], preference, PROPOSALS, proposals, ctypes.byref(found))
        one, zero = ctypes.c_float(1), ctypes.c_float(0)

        def run(proposal, a, b, y):
            self.call("cublasLtMatmul", self.handle, desc, ctypes.byref(one), ctypes.c_void_p(b.data_ptr()), layouts[0],
                      ctypes.c_void_p(a.data_ptr()), layouts[1], ctypes.byref(zero), ctypes.c_void_p(y.data_ptr()), layouts[2], ctypes.c_void_p(y.data_ptr()),
                      layouts[2], ctypes.byref(proposal.algo), ctypes.c_void_p(self.workspace.data_ptr()), ctypes.c_size_t(proposal.workspace),
                      ctypes.c_void_p(self.torch.cuda.current_stream().cuda_stream))
        return [lambda a, b, y, p=p: run(p, a, b, y) for p in proposals[:found.value] if p.state == 0]

// A pretend accelerator: torch's device type PrivateUse1 over host memory.
//
// Every operation runs the CPU's kernel on aliases of the same memory, so tensors, views, autograd
// and optimizers have real values, while all that a host must mind holds as on CUDA: operands on two
// devices raise, autocast casts what CUDA's lists say, the device draws from a generator of its own,
// and each thing that the host of a CUDA device would wait for is told to a hook.
#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/autocast_mode.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/Resize.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/resize_native.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <cstdlib>
#include <mutex>
#include <unordered_map>
#include <unordered_set>

namespace {
using at::Tensor;
using c10::Device, c10::DeviceIndex, c10::Stream;
constexpr auto TYPE = c10::DeviceType::PrivateUse1;
constexpr auto KEY = c10::DispatchKey::PrivateUse1;
const Device DEVICE(TYPE, 0);

// ---- what Python is told

void (*hook)(int, const char*) = nullptr;
bool has_float64 = true;
enum Kind { COPY = 0, WAIT = 1 };  // COPY: to the device, and nobody waits
void tell(Kind kind, const std::string& what) {
  if (hook) hook(kind, what.c_str());
}

void check_dtype(c10::ScalarType dtype) {
  TORCH_CHECK_TYPE(has_float64 || (dtype != at::kDouble && dtype != at::kComplexDouble),
                   "Cannot convert a pretend tensor to float64: this device has no float64");
}

// ---- memory

namespace stats = c10::CachingDeviceAllocator;
struct Memory final : c10::DeviceAllocator {
  static constexpr size_t HEAD = 64;  // before each block: its size
  std::mutex mutex;
  stats::DeviceStats counted;

  void count(int64_t bytes) {
    std::lock_guard<std::mutex> held(mutex);
    for (auto* one : {&counted.allocated_bytes, &counted.reserved_bytes, &counted.requested_bytes})
      bytes > 0 ? (*one)[0].increase(bytes) : (*one)[0].decrease(-bytes);
  }
  c10::DataPtr allocate(size_t bytes) override;
  c10::DeleterFnPtr raw_deleter() const override;
  void copy_data(void* to, const void* from, std::size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }
  bool initialized() override { return true; }
  void emptyCache(c10::MempoolId_t) override {}
  void recordStream(const c10::DataPtr&, Stream) override {}
  stats::DeviceStats getDeviceStats(DeviceIndex) override { return counted; }
  void resetAccumulatedStats(DeviceIndex) override {}
  void resetPeakStats(DeviceIndex) override {
    for (auto* one : {&counted.allocated_bytes, &counted.reserved_bytes, &counted.requested_bytes})
      (*one)[0].reset_peak();
  }
  std::pair<size_t, size_t> getMemoryInfo(DeviceIndex) override {
    const size_t all = size_t(1) << 33;
    return {all - std::min<size_t>(all, counted.allocated_bytes[0].current), all};
  }
} MEMORY;
void free_block(void* data) {
  if (!data) return;
  auto* block = static_cast<char*>(data) - Memory::HEAD;
  MEMORY.count(-static_cast<int64_t>(*reinterpret_cast<size_t*>(block)));
  std::free(block);
}
c10::DataPtr Memory::allocate(size_t bytes) {
  if (!bytes) return {nullptr, nullptr, &free_block, DEVICE};
  auto* block = static_cast<char*>(std::aligned_alloc(HEAD, HEAD + (bytes + HEAD - 1) / HEAD * HEAD));
  *reinterpret_cast<size_t*>(block) = bytes;
  count(static_cast<int64_t>(bytes));
  return {block + HEAD, block + HEAD, &free_block, DEVICE};
}
c10::DeleterFnPtr Memory::raw_deleter() const { return &free_block; }

struct Pinned final : c10::Allocator {  // host memory that can be copied while the host goes on
  mutable std::mutex mutex;
  std::unordered_map<const void*, size_t> blocks;
  c10::DataPtr allocate(size_t bytes) override;
  c10::DeleterFnPtr raw_deleter() const override;
  void copy_data(void* to, const void* from, std::size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }
  bool has(const void* pointer) const {
    std::lock_guard<std::mutex> held(mutex);
    for (auto& [start, bytes] : blocks)
      if (pointer >= start && pointer < static_cast<const char*>(start) + bytes) return true;
    return false;
  }
} PINNED;
void free_pinned(void* data) {
  std::lock_guard<std::mutex> held(PINNED.mutex);
  PINNED.blocks.erase(data);
  std::free(data);
}
c10::DataPtr Pinned::allocate(size_t bytes) {
  void* data = std::aligned_alloc(64, std::max<size_t>(64, (bytes + 63) / 64 * 64));
  std::lock_guard<std::mutex> held(mutex);
  blocks[data] = bytes;
  return {data, data, &free_pinned, c10::Device(c10::kCPU)};
}
c10::DeleterFnPtr Pinned::raw_deleter() const { return &free_pinned; }

// ---- the same memory, seen from both sides

bool ours(const Tensor& t) { return t.defined() && t.device().type() == TYPE; }

Tensor tensor_over(c10::Storage storage, const Tensor& like, c10::DispatchKey key) {
  auto t = at::detail::make_tensor<c10::TensorImpl>(std::move(storage), c10::DispatchKeySet(key), like.dtype());
  t.unsafeGetTensorImpl()->set_sizes_and_strides(like.sizes(), like.strides(), like.storage_offset());
  return t;
}
Tensor on_host(const Tensor& t) {
  const auto& storage = t.storage();
  c10::DataPtr alias(storage.mutable_data(), Device(c10::kCPU));
  auto* memory = c10::GetAllocator(c10::kCPU);  // where a kernel resizes it
  c10::Storage same(c10::Storage::use_byte_size_t(), storage.nbytes(), std::move(alias), memory, true);
  return tensor_over(std::move(same), t, c10::DispatchKey::CPU);
}
void drop(void* kept) {
  auto* storage = static_cast<c10::Storage*>(kept);
  MEMORY.count(-static_cast<int64_t>(storage->nbytes()));
  delete storage;
}
c10::DataPtr owned(const c10::Storage& storage) {  // takes over the memory of a result
  auto* kept = new c10::Storage(storage);
  MEMORY.count(static_cast<int64_t>(kept->nbytes()));
  return {kept->mutable_data(), kept, &drop, DEVICE};
}
Tensor on_device(const Tensor& t) {
  check_dtype(t.scalar_type());
  c10::Storage same(c10::Storage::use_byte_size_t(), t.storage().nbytes(), owned(t.storage()), &MEMORY, true);
  return tensor_over(std::move(same), t, KEY);
}

// ---- draws: a generator of the device, not the host's

struct Draws final : c10::GeneratorImpl {
  at::Generator host;
  explicit Draws(uint64_t seed)
      : GeneratorImpl(DEVICE, c10::DispatchKeySet(KEY)), host(at::make_generator<at::CPUGeneratorImpl>(seed)) {}
  void set_current_seed(uint64_t seed) override { host.set_current_seed(seed); }
  void set_offset(uint64_t offset) override { host.set_offset(offset); }
  uint64_t get_offset() const override { return host.get_offset(); }
  uint64_t current_seed() const override { return host.current_seed(); }
  uint64_t seed() override { return host.seed(); }
  void set_state(const c10::TensorImpl& state) override { host.unsafeGetGeneratorImpl()->set_state(state); }
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override { return host.unsafeGetGeneratorImpl()->get_state(); }
  GeneratorImpl* clone_impl() const override {
    auto* copy = new Draws(0);
    copy->host = host.clone();
    return copy;
  }
};
const at::Generator& default_draws() {
  static const at::Generator one = at::make_generator<Draws>(c10::default_rng_seed_val);
  return one;
}
at::Generator host_draws(const at::Generator& generator) {
  TORCH_CHECK(generator.device().type() == TYPE, "Expected a 'pretend' device type for generator but found '",
              generator.device().type(), "'");
  return static_cast<Draws*>(generator.unsafeGetGeneratorImpl())->host;
}

// ---- operations that are not the CPU's

Tensor empty(c10::IntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
             std::optional<Device>, std::optional<bool>, std::optional<at::MemoryFormat> format) {
  check_dtype(c10::dtype_or_default(dtype));
  return at::detail::empty_generic(size, &MEMORY, c10::DispatchKeySet(KEY), c10::dtype_or_default(dtype), format);
}
Tensor empty_strided(c10::IntArrayRef size, c10::IntArrayRef stride, std::optional<at::ScalarType> dtype,
                     std::optional<at::Layout>, std::optional<Device>, std::optional<bool>) {
  check_dtype(c10::dtype_or_default(dtype));
  return at::detail::empty_strided_generic(size, stride, &MEMORY, c10::DispatchKeySet(KEY), c10::dtype_or_default(dtype));
}
Tensor copy_from(const Tensor& from, const Tensor& to, bool non_blocking) {
  if (ours(from) && !ours(to)) {  // into pageable memory the host waits in any case
    const bool free = non_blocking && PINNED.has(to.storage().data());
    tell(free ? COPY : WAIT, "copy to the host");
  } else if (!ours(from) && ours(to)) {
    tell(non_blocking ? COPY : WAIT, "copy to the device");
  }
  auto a = ours(from) ? on_host(from) : from;
  auto b = ours(to) ? on_host(to) : to;
  b.copy_(a);
  return to;
}
at::Scalar item(const Tensor& t) {
  tell(WAIT, "item");
  return on_host(t).item();
}
Tensor as_strided(const Tensor& t, c10::IntArrayRef size, c10::IntArrayRef stride, std::optional<int64_t> offset) {
  return at::native::as_strided_tensorimpl(t, size, stride, offset);
}
Tensor view(const Tensor& t, c10::IntArrayRef size) { return at::native::view(t, size); }
Tensor reshape_alias(const Tensor& t, c10::IntArrayRef size, c10::IntArrayRef stride) {
  return at::native::_reshape_alias(t, size, stride);
}
const Tensor& resize_(const Tensor& t, c10::IntArrayRef size, std::optional<at::MemoryFormat> format) {
  return at::native::resize_(t, size, format);
}
Tensor& set_storage(Tensor& t, at::Storage storage, int64_t offset, c10::IntArrayRef size, c10::IntArrayRef stride) {
  return at::native::set_storage_cpu_(t, storage, offset, size, stride);
}
Tensor& set_whole_storage(Tensor& t, at::Storage storage) {
  const auto count = static_cast<int64_t>(storage.nbytes() / t.dtype().itemsize());
  return at::native::set_storage_cpu_(t, storage, 0, {count}, {1});
}
Tensor& set_tensor(Tensor& t, const Tensor& other) { return at::native::set_tensor_(t, other); }
bool is_pinned(const Tensor& t, std::optional<Device>) { return PINNED.has(t.storage().data()); }
Tensor pin_memory(const Tensor& t, std::optional<Device>) {
  TORCH_CHECK(!ours(t), "cannot pin 'torch.pretend' memory: only dense CPU tensors can be pinned");
  Tensor pinned = at::detail::empty_strided_generic(
      t.sizes(), t.strides(), &PINNED, c10::DispatchKeySet(c10::DispatchKey::CPU), t.scalar_type());
  return pinned.copy_(t);
}
int64_t attention_kernel(const Tensor&, const Tensor&, const Tensor&, const std::optional<Tensor>&, double, bool,
                         std::optional<double>, bool) {
  return 0;  // of "math": matrix products and a softmax
}

// one kernel, as on CUDA, that draws from the device, but rounds as the CPU's product with the noise does
std::tuple<Tensor, Tensor> dropout(const Tensor& x, double p, std::optional<bool> train) {
  auto noise = at::ones_like(on_host(x));
  if (!train.has_value() || *train) noise.bernoulli_(1 - p, host_draws(default_draws()));
  auto mask = noise.to(at::kBool);
  if (p < 1 && (!train.has_value() || *train)) noise.div_(1 - p);
  return {on_device(on_host(x) * noise), on_device(mask)};
}
Tensor dropout_backward(const Tensor& dy, const Tensor& mask, double scale) {
  auto noise = on_host(mask).to(dy.scalar_type());
  return on_device(on_host(dy) * (scale ? noise.div_(1 / scale) : noise));
}

std::optional<Tensor> host_bias(const std::optional<Tensor>& bias) {
  return bias && bias->defined() ? std::optional<Tensor>(on_host(*bias)) : std::nullopt;
}
Tensor convolution(const Tensor& x, const Tensor& w, const std::optional<Tensor>& bias, c10::IntArrayRef stride,
                   c10::IntArrayRef padding, c10::IntArrayRef dilation, bool transposed,
                   c10::IntArrayRef output_padding, int64_t groups) {
  TORCH_CHECK(ours(x) && ours(w) && (!bias || !bias->defined() || ours(*bias)),
              "convolution: Expected all tensors to be on the same device");
  return on_device(at::convolution(on_host(x), on_host(w), host_bias(bias), stride, padding, dilation, transposed,
                                   output_padding, groups));
}
std::tuple<Tensor, Tensor, Tensor> convolution_backward(
    const Tensor& dy, const Tensor& x, const Tensor& w, c10::IntArrayRef stride, c10::IntArrayRef padding,
    c10::IntArrayRef dilation, bool transposed, c10::IntArrayRef output_padding, int64_t groups,
    std::array<bool, 3> wanted) {
  const std::vector<int64_t> bias{transposed ? w.size(1) * groups : w.size(0)};
  auto [dx, dw, db] = at::convolution_backward(on_host(dy), on_host(x), on_host(w), at::OptionalIntArrayRef(bias),
                                               stride, padding, dilation, transposed, output_padding, groups, wanted);
  auto moved = [](const Tensor& t) { return t.defined() ? on_device(t) : t; };
  return {moved(dx), moved(dw), moved(db)};
}

// ---- all others: the CPU's kernel, under CUDA's rules

bool starts(const std::string& name, const char* with) { return name.rfind(with, 0) == 0; }
bool indexes(const std::string& name) { return starts(name, "aten::index") || starts(name, "aten::_index_put"); }

bool is_mask(const c10::IValue& index) {
  if (!index.isTensor() || !index.toTensor().defined()) return false;
  const auto dtype = index.toTensor().scalar_type();
  return dtype == at::kBool || dtype == at::kByte;
}
// what a kernel of CUDA reads back to know how large its result is, or whether its input is right
void tell_waits(const std::string& name, bool out, const std::vector<c10::IValue>& args) {
  static const std::unordered_set<std::string> reads{
      "aten::nonzero",  "aten::masked_select",     "aten::equal",             "aten::_unique", "aten::_unique2",
      "aten::unique_dim", "aten::unique_consecutive", "aten::bincount", "aten::histc", "aten::is_nonzero"};
  if (reads.count(name)) return tell(WAIT, name.substr(6));
  if (name == "aten::repeat_interleave" && args.back().isNone()) return tell(WAIT, name.substr(6));
  // x[mask] was told by the nonzero of its first half, which makes the result for Tensor_out
  if (!indexes(name) || out || args.size() < 2 || !args[1].isList()) return;
  size_t masks = 0, hosts = 0, given = 0;
  for (const auto& index : args[1].toListRef()) {
    if (!index.isTensor() || !index.toTensor().defined()) continue;
    ++given, masks += is_mask(index), hosts += !ours(index.toTensor());
  }
  // x[mask] = a number of the host is a masked_fill. Written with [] it cannot be told from a tensor
  // of the device here, and counts: CUDA alone keeps such a number on the host
  if (starts(name, "aten::_index_put") || starts(name, "aten::index_put")) {
    const auto value = args.size() > 2 && args[2].isTensor() ? args[2].toTensor() : Tensor();
    if (masks && given == 1 && value.defined() && value.numel() == 1 && !ours(value)) return;
  }
  for (; masks; --masks) tell(WAIT, "index by a mask");
  for (; hosts; --hosts) tell(WAIT, "index from the host");
}

// one call: which tensors of the host stand for which of the device
struct Call {
  const std::string& name;
  std::unordered_map<c10::TensorImpl*, Tensor> origin;
  std::unordered_map<void*, Tensor> by_memory;
  // owned until the call is over: torch 2.11 drops the arguments, and then reads several results that
  // are references to them; and `origin` knows a tensor by its address
  std::vector<std::pair<Tensor, Tensor>> kept;

  Tensor host(const Tensor& t, bool may_be_host, bool written) {
    if (!t.defined()) return t;
    if (!ours(t)) {
      TORCH_CHECK(may_be_host && !(written && t.defined()), name,
                  ": Expected all tensors to be on the same device, but found at least two devices, pretend:0 and ",
                  t.device(), " (of shape ", t.sizes(), ")!");
      return t;
    }
    auto h = on_host(t);
    origin[h.unsafeGetTensorImpl()] = t;
    if (t.storage().nbytes()) by_memory[t.storage().mutable_data()] = t;
    kept.emplace_back(t, h);
    return h;
  }
  void follow_resized() {  // outputs, to which a kernel gave another shape, or also other memory
    for (auto& [t, h] : kept) {
      if (h.storage().data() != t.storage().data()) {
        t.storage().set_data_ptr_noswap(owned(h.storage()));
        t.storage().set_nbytes(h.storage().nbytes());
      }
      if (h.sizes() != t.sizes() || h.strides() != t.strides())
        t.unsafeGetTensorImpl()->set_sizes_and_strides(h.sizes(), h.strides(), h.storage_offset());
    }
  }
  c10::IValue to_host(const c10::IValue& value, const c10::Argument& argument, bool is_index) {
    const bool written = argument.alias_info() && argument.alias_info()->isWrite();
    if (value.isTensor()) return host(value.toTensor(), !value.toTensor().defined() || !value.toTensor().dim(), written);
    if (value.isOptionalTensorList()) {
      c10::List<std::optional<Tensor>> list;
      for (std::optional<Tensor> t : value.toOptionalTensorVector())
        list.push_back(t && t->defined() ? std::optional<Tensor>(host(*t, is_index || !t->dim(), written)) : t);
      return list;
    }
    if (value.isTensorList() || (value.isList() && !value.toListRef().empty() && value.toListRef()[0].isTensor())) {
      c10::List<Tensor> list;
      for (const Tensor& t : value.toTensorVector()) list.push_back(host(t, is_index, written));
      return list;
    }
    if (value.isDevice() && value.toDevice().type() == TYPE) return Device(c10::kCPU);
    if (value.isGenerator()) return host_draws(value.toGenerator());
    if (value.isNone() && argument.name() == "generator") return host_draws(default_draws());
    return value;
  }
  Tensor device(const Tensor& t) {
    if (!t.defined()) return t;
    if (auto found = origin.find(t.unsafeGetTensorImpl()); found != origin.end()) return found->second;
    if (t.storage().nbytes())
      if (auto same = by_memory.find(t.storage().mutable_data()); same != by_memory.end()) {
        check_dtype(t.scalar_type());
        return tensor_over(same->second.storage(), t, KEY);
      }
    return on_device(t);
  }
  c10::IValue to_device(const c10::IValue& value) {
    if (value.isTensor()) return device(value.toTensor());
    if (!value.isTensorList()) return value;
    c10::List<Tensor> list;
    for (const Tensor& t : value.toTensorVector()) list.push_back(device(t));
    return list;
  }
};

void fallback(const c10::OperatorHandle& op, c10::DispatchKeySet, torch::jit::Stack* stack) {
  const auto& schema = op.schema();
  const auto& arguments = schema.arguments();
  const auto args = torch::jit::last(*stack, arguments.size()).vec();
  torch::jit::drop(*stack, arguments.size());
  tell_waits(schema.name(), schema.overload_name() == "Tensor_out", args);
  Call call{schema.name(), {}, {}, {}};
  for (size_t i = 0; i < args.size(); ++i)
    stack->push_back(call.to_host(args[i], arguments[i], i == 1 && indexes(schema.name())));
  op.callBoxed(stack);
  call.follow_resized();
  const auto results = torch::jit::last(*stack, schema.returns().size()).vec();
  torch::jit::drop(*stack, results.size());
  for (const auto& result : results) stack->push_back(call.to_device(result));
}

// ---- one device with one stream

struct Guard final : c10::impl::NoOpDeviceGuardImpl<TYPE> {
  Stream stream() const { return Stream(Stream::DEFAULT, DEVICE); }
  Device exchangeDevice(Device) const override { return DEVICE; }
  Device getDevice() const override { return DEVICE; }
  Stream getStream(Device) const noexcept override { return stream(); }
  Stream getDefaultStream(Device) const override { return stream(); }
  Stream getNewStream(Device, int) const override { return stream(); }
  Stream getStreamFromGlobalPool(Device, bool) const override { return stream(); }
  Stream exchangeStream(Stream) const noexcept override { return stream(); }
  void record(void** event, const Stream&, const DeviceIndex, const c10::EventFlag) const override {
    *event = const_cast<Guard*>(this);
  }
  void block(void*, const Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void synchronizeEvent(void*) const override { tell(WAIT, "synchronize an event"); }
  void synchronizeStream(const Stream&) const override { tell(WAIT, "synchronize the stream"); }
  void synchronizeDevice(const DeviceIndex) const override { tell(WAIT, "synchronize"); }
  double elapsedTime(void*, void*, const DeviceIndex) const override { return 0.001; }
};
struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  DeviceIndex deviceCount() const override { return 1; }
  DeviceIndex getCurrentDevice() const override { return 0; }
  void setCurrentDevice(DeviceIndex) const override {}
  DeviceIndex exchangeDevice(DeviceIndex) const override { return 0; }
  DeviceIndex maybeExchangeDevice(DeviceIndex) const override { return 0; }
  const at::Generator& getDefaultGenerator(DeviceIndex) const override { return default_draws(); }
  at::Generator getNewGenerator(DeviceIndex) const override {
    return at::make_generator<Draws>(c10::default_rng_seed_val);
  }
  bool isPinnedPtr(const void* data) const override { return PINNED.has(data); }
  c10::Allocator* getPinnedMemoryAllocator() const override { return &PINNED; }
  Device getDeviceFromPtr(void*) const override { return DEVICE; }
  void resizePrivateUse1Bytes(const c10::Storage& storage, size_t bytes) const override {
    auto grown = MEMORY.allocate(bytes);
    const auto kept = std::min(bytes, storage.nbytes());
    if (kept) std::memcpy(grown.get(), storage.data(), kept);
    storage.set_data_ptr_noswap(std::move(grown));
    storage.set_nbytes(bytes);
  }
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard)
struct Register {
  Register() {
    c10::SetAllocator(TYPE, &MEMORY);
    at::RegisterPrivateUse1HooksInterface(new Hooks());
  }
} REGISTER;

void manual_seed(int64_t seed) { at::Generator(default_draws()).set_current_seed(seed); }
Tensor rng_state() { return default_draws().get_state(); }
void set_rng_state(const Tensor& state) { at::Generator(default_draws()).set_state(state); }
}  // namespace

extern "C" {
void pretend_tell(void (*told)(int, const char*)) { hook = told; }
void pretend_has_float64(int has) { has_float64 = has; }
}

TORCH_LIBRARY(pretend, m) {
  m.def("manual_seed(int seed) -> ()", manual_seed);
  m.def("rng_state() -> Tensor", rng_state);
  m.def("set_rng_state(Tensor state) -> ()", set_rng_state);
}
TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", empty);
  m.impl("empty_strided", empty_strided);
  m.impl("_copy_from", copy_from);
  m.impl("_local_scalar_dense", item);
  m.impl("as_strided", as_strided);
  m.impl("view", view);
  m.impl("_reshape_alias", reshape_alias);
  m.impl("resize_", resize_);
  m.impl("set_.source_Storage_storage_offset", set_storage);
  m.impl("set_.source_Storage", set_whole_storage);
  m.impl("set_.source_Tensor", set_tensor);
  m.impl("is_pinned", is_pinned);
  m.impl("_pin_memory", pin_memory);
  m.impl("_fused_sdp_choice", attention_kernel);
  m.impl("native_dropout", dropout);
  m.impl("native_dropout_backward", dropout_backward);
  m.impl("convolution_overrideable", convolution);
  m.impl("convolution_backward_overrideable", convolution_backward);
}
// kernels of CPU and CUDA alike, where other devices have a formula that rounds otherwise
TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  for (const char* name : {"native_layer_norm", "native_group_norm"})
    m.impl(name, torch::CppFunction::makeFromBoxedFunction<&fallback>());
}
TORCH_LIBRARY_IMPL(_, PrivateUse1, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&fallback>()); }

// what autocast casts: CUDA's own lists
#define LOWER(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, lower_precision_fp)
#define FP32(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, fp32)
#define FP32_SET(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, fp32_set_opt_dtype)
#define PROMOTE(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, promote)
TORCH_LIBRARY_IMPL(_, AutocastPrivateUse1, m) { m.fallback(torch::CppFunction::makeFallthrough()); }
Tensor unsafe_to_autocast(const Tensor&, const Tensor&, const std::optional<Tensor>&, int64_t) {
  TORCH_CHECK(false, "torch.nn.functional.binary_cross_entropy and torch.nn.BCELoss are unsafe to autocast.");
}
using namespace at;
using namespace at::autocast;
TORCH_LIBRARY_IMPL(aten, AutocastPrivateUse1, m) {
  AT_FORALL_LOWER_PRECISION_FP(LOWER)
  AT_FORALL_FP32(FP32)
  AT_FORALL_FP32_SET_OPT_DTYPE(FP32_SET)
  AT_FORALL_DIFFERENT_REDISPATCH_SIGNATURE(KERNEL_DIFFERENT_REDISPATCH_SIGNATURE_PRIVATEUSEONE)
  AT_FORALL_PROMOTE(PROMOTE)
  m.impl("binary_cross_entropy", unsafe_to_autocast);
}

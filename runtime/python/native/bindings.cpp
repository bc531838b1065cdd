// The kernels for Python. Descriptions of networks are those of pruneonce_runtime.spec, whose loader has checked them;
// sizes that a kernel relies on are looked at once more here.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include "../../kernels/engine.h"
#include "../../kernels/model.h"
#include "../../kernels/threads.h"

namespace nb = nanobind;
using namespace pruneonce;

namespace {

template <class T>
using Vector = nb::ndarray<const T, nb::numpy, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <class T>
using Grid = nb::ndarray<const T, nb::numpy, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

void require(bool is_right, const char* what) {
    if (!is_right) throw nb::value_error(what);
}

bool is_none(nb::handle object) { return object.is_none(); }

int integer(nb::handle object) { return nb::cast<int>(object); }

// Arrays that a description borrows, kept until they are no longer needed.
class Arrays {
    std::vector<nb::object> kept_;

public:
    template <class T>
    const T* grid(nb::handle object, int rows, int columns) {
        auto array = nb::cast<Grid<T>>(object);
        require(int(array.shape(0)) == rows && int(array.shape(1)) == columns, "a matrix of another size");
        kept_.push_back(nb::borrow(object));
        return array.data();
    }
    template <class T>
    const T* vector(nb::handle object, int size) {
        auto array = nb::cast<Vector<T>>(object);
        require(int(array.shape(0)) == size, "a vector of another size");
        kept_.push_back(nb::borrow(object));
        return array.data();
    }
    const float* flat(nb::handle object, int* size) {
        nb::object array = nb::borrow(object).attr("reshape")(-1);
        auto values = nb::cast<Vector<float>>(array);
        *size = int(values.shape(0));
        kept_.push_back(array);
        return values.data();
    }
};

bool has_integers(nb::handle values) { return nb::cast<std::string>(values.attr("dtype").attr("name")) == "int8"; }

Linear linear_of(nb::handle given, Arrays& arrays) {
    Linear linear;
    linear.outputs = integer(given.attr("outputs"));
    linear.inputs = integer(given.attr("inputs"));
    require(linear.inputs > 0 && linear.outputs > 0 && linear.inputs <= 1 << 16, "a matrix without inputs, or with too many");
    nb::object weight = given.attr("weight");
    if (has_integers(weight)) {
        linear.integers = arrays.grid<int8_t>(weight, linear.outputs, linear.inputs);
        linear.scale = arrays.flat(given.attr("scale"), &linear.scales);
        require(linear.scales == 1 || linear.scales % linear.outputs == 0, "scales that do not fit");
        require(linear.scales <= linear.outputs || linear.inputs % (linear.scales / linear.outputs) == 0, "scales that do not fit");
    } else {
        linear.floats = arrays.grid<float>(weight, linear.outputs, linear.inputs);
    }
    if (!is_none(given.attr("bias"))) linear.bias = arrays.vector<float>(given.attr("bias"), linear.outputs);
    if (!is_none(given.attr("input_scale"))) {
        linear.input_scale = nb::cast<float>(nb::float_(given.attr("input_scale")));
        linear.input_zero = integer(given.attr("input_zero"));
        require(linear.integers && linear.scales <= linear.outputs, "quantized inputs of a matrix without a grid of rows");
        require(linear.input_zero >= 0 && linear.input_zero <= 255, "a zero point outside of uint8");
    }
    return linear;
}

Norm norm_of(nb::handle given, int width, Arrays& arrays) {
    Norm norm;
    norm.weight = arrays.vector<float>(given.attr("weight"), width);
    if (!is_none(given.attr("bias"))) norm.bias = arrays.vector<float>(given.attr("bias"), width);
    norm.eps = nb::cast<float>(given.attr("eps"));
    return norm;
}

Table table_of(nb::handle given, int width, Arrays& arrays) {
    Table table;
    table.rows = integer(given.attr("rows"));
    table.width = integer(given.attr("width"));
    require(table.width == width, "a table of another width");
    nb::object values = given.attr("values");
    if (has_integers(values)) {
        table.integers = arrays.grid<int8_t>(values, table.rows, width);
        table.scale = arrays.vector<float>(given.attr("scale"), table.rows);
    } else {
        table.floats = arrays.grid<float>(values, table.rows, width);
    }
    return table;
}

Activation activation_of(const std::string& name) {
    if (name == "gelu") return Activation::gelu;
    if (name == "gelu_tanh") return Activation::gelu_tanh;
    if (name == "relu") return Activation::relu;
    if (name == "silu") return Activation::silu;
    if (name == "tanh") return Activation::tanh;
    throw nb::value_error("an activation that there is no kernel for");
}

Layer layer_of(nb::handle given, int hidden, int heads, Arrays& arrays) {
    Layer layer;
    int outputs = 0;
    for (nb::handle linear : given.attr("inputs")) {
        layer.inputs.push_back(linear_of(linear, arrays));
        require(layer.inputs.back().inputs == hidden, "a layer of another width");
        outputs += layer.inputs.back().outputs;
    }
    require(outputs == 3 * hidden, "queries, keys and values of another width");
    layer.output = linear_of(given.attr("output"), arrays);
    layer.up = linear_of(given.attr("up"), arrays);
    layer.down = linear_of(given.attr("down"), arrays);
    layer.gated = nb::cast<bool>(given.attr("gated"));
    layer.pre_norm = nb::cast<bool>(given.attr("pre_norm"));
    const int inner = layer.gated ? layer.up.outputs / 2 : layer.up.outputs;
    require(layer.output.inputs == hidden && layer.output.outputs == hidden, "an output of another width");
    require(layer.up.inputs == hidden && layer.down.outputs == hidden && layer.down.inputs == inner, "a feed-forward network of another width");
    require(!layer.gated || layer.up.outputs % 2 == 0, "a gate of another width");
    if (!is_none(given.attr("attention_norm"))) layer.attention_norm = norm_of(given.attr("attention_norm"), hidden, arrays);
    require(layer.pre_norm || layer.attention_norm.has_value(), "a layer without a norm");
    layer.feed_norm = norm_of(given.attr("feed_norm"), hidden, arrays);
    layer.activation = activation_of(nb::cast<std::string>(given.attr("activation")));
    if (!is_none(given.attr("rotary"))) {
        require((hidden / heads) % 2 == 0, "heads of an odd width");
        layer.frequencies = arrays.vector<float>(given.attr("rotary").attr("frequencies"), hidden / heads / 2);
    }
    if (!is_none(given.attr("window"))) {
        layer.window = integer(given.attr("window"));
        require(layer.window >= 0, "a window below 0");
    }
    return layer;
}

Encoder encoder_of(nb::handle given, Arrays& arrays, Arrays& tables) {
    Encoder encoder;
    encoder.heads = integer(given.attr("heads"));
    encoder.hidden = integer(given.attr("hidden"));
    encoder.max_tokens = integer(given.attr("max_tokens"));
    require(encoder.heads > 0 && encoder.hidden > 0 && encoder.hidden % encoder.heads == 0, "heads that do not fit");
    require(encoder.max_tokens > 0, "a model for no tokens");
    nb::object embeddings = given.attr("embeddings");
    Embeddings& e = encoder.embeddings;
    const int width = integer(embeddings.attr("words").attr("width"));
    e.words = table_of(embeddings.attr("words"), width, tables);
    if (!is_none(embeddings.attr("positions"))) e.positions = table_of(embeddings.attr("positions"), width, tables);
    if (!is_none(embeddings.attr("types"))) e.types = table_of(embeddings.attr("types"), width, tables);
    e.norm = norm_of(embeddings.attr("norm"), width, arrays);
    if (!is_none(embeddings.attr("projection"))) e.projection = linear_of(embeddings.attr("projection"), arrays);
    require(e.projection ? e.projection->inputs == width && e.projection->outputs == encoder.hidden : width == encoder.hidden, "tables of another width");
    e.position_offset = integer(embeddings.attr("position_offset"));
    if (!is_none(embeddings.attr("pad_id"))) e.pad_id = integer(embeddings.attr("pad_id"));
    require(e.pad_id < 0 || e.position_offset > 0, "no position for padding");
    require(!e.positions || e.positions->rows >= e.position_offset + encoder.max_tokens, "more tokens than positions");
    for (nb::handle layer : given.attr("layers")) encoder.layers.push_back(layer_of(layer, encoder.hidden, encoder.heads, arrays));
    if (!is_none(given.attr("relative_bias"))) {
        nb::object bias = given.attr("relative_bias");
        encoder.reach = integer(bias.attr("reach"));
        encoder.relative_bias = arrays.grid<float>(bias.attr("table"), encoder.heads, 2 * encoder.reach + 1);
    }
    if (!is_none(given.attr("final_norm"))) encoder.final_norm = norm_of(given.attr("final_norm"), encoder.hidden, arrays);
    return encoder;
}

const InstructionSet& set_of(const std::string& name) {
    const InstructionSet* set = find(name);
    if (!set) throw nb::value_error("this processor has no such instructions, or they were not compiled in");
    return *set;
}

template <class T>
nb::ndarray<nb::numpy, T, nb::ndim<2>> array_of(T* values, size_t rows, size_t columns) {
    nb::capsule owner(values, [](void* p) noexcept { delete[] static_cast<T*>(p); });
    return nb::ndarray<nb::numpy, T, nb::ndim<2>>(values, {rows, columns}, owner);
}

class NativeEncoder {
    Arrays tables_;
    int hidden_, rows_, types_, max_tokens_;
    std::string name_;
    std::unique_ptr<Engine> engine_;
    std::unique_ptr<Threads> threads_;

public:
    NativeEncoder(nb::handle given, const std::string& instructions, int threads) {
        Arrays arrays;
        const Encoder encoder = encoder_of(given, arrays, tables_);
        const InstructionSet& set = set_of(instructions);
        hidden_ = encoder.hidden;
        rows_ = encoder.embeddings.words.rows;
        types_ = encoder.embeddings.types ? encoder.embeddings.types->rows : 1;
        max_tokens_ = encoder.max_tokens;
        name_ = set.name;
        engine_ = set.engine(encoder);
        threads_ = make_threads(threads);
    }

    auto run(Vector<int32_t> ids, Vector<int32_t> offsets, nb::object given_types, Threads& threads, Seconds* seconds) {
        const int32_t* types = nullptr;
        if (!given_types.is_none()) {
            auto array = nb::cast<Vector<int32_t>>(given_types);
            require(array.shape(0) == ids.shape(0), "token types of another number");
            types = array.data();
        }
        const size_t tokens = ids.shape(0);
        require(offsets.shape(0) > 0, "no offsets");
        const int texts = int(offsets.shape(0)) - 1;
        const int32_t *id = ids.data(), *offset = offsets.data();
        require(offset[0] == 0 && size_t(offset[texts]) == tokens, "offsets that do not cover the tokens");
        for (int t = 0; t < texts; ++t)
            require(offset[t] < offset[t + 1] && offset[t + 1] - offset[t] <= max_tokens_, "a text without tokens, or with too many");
        for (size_t i = 0; i < tokens; ++i) {
            require(id[i] >= 0 && id[i] < rows_, "a token that is not in the table");
            require(!types || (types[i] >= 0 && types[i] < types_), "a token type that is not in the table");
        }
        auto* hidden = new float[std::max<size_t>(tokens * hidden_, 1)];
        auto result = array_of(hidden, tokens, size_t(hidden_));
        {
            nb::gil_scoped_release release;
            if (texts > 0) engine_->forward(id, offset, types, texts, hidden, threads, seconds);
        }
        return result;
    }

    auto forward(Vector<int32_t> ids, Vector<int32_t> offsets, nb::object types) {
        return run(ids, offsets, types, *threads_, nullptr);
    }

    std::vector<std::pair<std::string, double>> seconds(Vector<int32_t> ids, Vector<int32_t> offsets, nb::object types) {
        Seconds seconds{};
        Alone alone;
        run(ids, offsets, types, alone, &seconds);
        std::vector<std::pair<std::string, double>> rows;
        for (size_t i = 0; i < seconds.size(); ++i) rows.emplace_back(OPERATIONS[i], seconds[i]);
        return rows;
    }

    std::vector<std::tuple<std::string, std::string, int, int, double, double, double>> choices() const {
        std::vector<std::tuple<std::string, std::string, int, int, double, double, double>> rows;
        for (const Choice& c : engine_->choices()) rows.emplace_back(c.kernel, c.narrow, c.outputs, c.inputs, c.kept, c.work, c.narrow_work);
        return rows;
    }
    std::string instructions() const { return name_; }
    int threads() const { return threads_->count(); }
};

class NativeLinear {
    int outputs_, inputs_;
    bool is_integer_;
    std::unique_ptr<Product> product_;

public:
    NativeLinear(nb::handle given, const std::string& instructions, const std::string& kernel) {
        Arrays arrays;
        const Linear linear = linear_of(given, arrays);
        outputs_ = linear.outputs;
        inputs_ = linear.inputs;
        is_integer_ = linear.input_scale > 0;
        product_ = set_of(instructions).product(linear, kernel);
    }
    auto call(Grid<float> x) {
        require(int(x.shape(1)) == inputs_, "inputs of another width");
        const size_t rows = x.shape(0);
        auto* y = new float[std::max<size_t>(rows * outputs_, 1)];
        auto result = array_of(y, rows, size_t(outputs_));
        nb::gil_scoped_release release;
        product_->run(x.data(), int(rows), y);
        return result;
    }
    std::pair<std::string, std::string> kernels() const { return {product_->choice().kernel, product_->choice().narrow}; }
    auto sums(Grid<float> x) {
        require(int(x.shape(1)) == inputs_, "inputs of another width");
        require(is_integer_, "a matrix without quantized inputs has no integer sums");
        const size_t rows = x.shape(0);
        auto* y = new int32_t[std::max<size_t>(rows * outputs_, 1)];
        auto result = array_of(y, rows, size_t(outputs_));
        product_->sums(x.data(), int(rows), y);
        return result;
    }
};

}  // namespace

NB_MODULE(_native, m) {
    m.doc() = "Kernels in C++.";
    m.def("instruction_sets", [] {
        std::vector<std::string> names;
        for (const InstructionSet& set : instruction_sets())
            if (set.is_here()) names.emplace_back(set.name);
        return names;
    }, "Names of the instruction sets that were compiled in and that this processor has; the first is taken.");
    m.def("peak", [](const std::string& instructions) { return set_of(instructions).peak(); }, nb::arg("instructions") = "",
          "Products of two integers that a core does in a second, and adds up, if it does nothing else.");
    nb::class_<NativeEncoder>(m, "Encoder")
        .def(nb::init<nb::handle, const std::string&, int>(), nb::arg("encoder"), nb::arg("instructions") = "", nb::arg("threads") = 1)
        .def("forward", &NativeEncoder::forward, nb::arg("ids"), nb::arg("offsets"), nb::arg("types").none())
        .def("seconds", &NativeEncoder::seconds, nb::arg("ids"), nb::arg("offsets"), nb::arg("types").none())
        .def("choices", &NativeEncoder::choices)
        .def_prop_ro("instructions", &NativeEncoder::instructions)
        .def_prop_ro("threads", &NativeEncoder::threads);
    nb::class_<NativeLinear>(m, "Linear")
        .def(nb::init<nb::handle, const std::string&, const std::string&>(), nb::arg("linear"), nb::arg("instructions") = "", nb::arg("kernel") = "")
        .def("__call__", &NativeLinear::call)
        .def("sums", &NativeLinear::sums)
        .def_prop_ro("kernels", &NativeLinear::kernels);
}

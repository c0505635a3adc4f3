//! The module tree that torch would build: names, classes, parameters, and the text that `print(model)` gives.
//!
//! Target rules and `inspect` work on it; no weight is touched. Classes and order are those of the current
//! Transformers, because users compare the text and because LoRA's target names come from it.

mod display;
pub mod layers;

use std::fmt;

/// A module and everything below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// torch's class name, as `BloomBlock`.
    pub class: String,
    /// What `extra_repr()` gives, as `in_features=4, out_features=3, bias=True`.
    pub extra: String,
    /// What the module computes, where the name alone does not say it.
    pub layer: Layer,
    /// Its own parameters, in order.
    pub parameters: Vec<ParameterShape>,
    /// Attributes that are modules, in order.
    pub children: Vec<(String, Module)>,
}

/// The kinds that a low-rank delta or a report must tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layer {
    /// `nn.Linear`, weight `[out, in]`.
    Linear {
        /// D.
        in_features: usize,
        /// O.
        out_features: usize,
    },
    /// GPT-2's `Conv1D`, weight `[in, out]`.
    Conv1d {
        /// D.
        in_features: usize,
        /// O.
        out_features: usize,
    },
    /// `nn.Embedding`.
    Embedding {
        /// V.
        rows: usize,
        /// D.
        dim: usize,
    },
    /// `nn.ModuleList`: equal neighbours are printed once.
    List,
    /// Anything else.
    Other,
}

impl Layer {
    /// D and O of a projection.
    pub fn projection(self) -> Option<(usize, usize)> {
        match self {
            Self::Linear {
                in_features,
                out_features,
            }
            | Self::Conv1d {
                in_features,
                out_features,
            } => Some((in_features, out_features)),
            _ => None,
        }
    }
}

/// A parameter of one module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParameterShape {
    /// Attribute, as `weight`.
    pub name: String,
    /// As torch has it.
    pub shape: Vec<usize>,
    /// Full name of the parameter whose memory this is: `named_parameters()` leaves it out.
    pub tied_to: Option<String>,
}

impl ParameterShape {
    /// Number of elements.
    pub fn count(&self) -> u64 {
        self.shape.iter().map(|&size| size as u64).product()
    }
}

impl Module {
    /// A module without parameters.
    pub fn new(class: impl Into<String>) -> Self {
        Self {
            class: class.into(),
            extra: String::new(),
            layer: Layer::Other,
            parameters: Vec::new(),
            children: Vec::new(),
        }
    }

    /// With one more attribute.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, child: Module) -> Self {
        self.children.push((name.into(), child));
        self
    }

    /// With one more parameter.
    #[must_use]
    pub fn with_parameter(mut self, name: &str, shape: &[usize]) -> Self {
        self.parameters.push(ParameterShape {
            name: name.to_owned(),
            shape: shape.to_vec(),
            tied_to: None,
        });
        self
    }

    /// The direct child of that name.
    pub fn child(&self, name: &str) -> Option<&Module> {
        let found = self.children.iter().find(|(own, _)| own == name);
        found.map(|(_, module)| module)
    }

    fn walk<'a>(&'a self, path: &str, out: &mut Vec<(String, &'a Module)>) {
        out.push((path.to_owned(), self));
        for (name, child) in &self.children {
            child.walk(&join(path, name), out);
        }
    }
}

/// A whole model's modules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModuleTree {
    /// The `…ForCausalLM` module.
    pub root: Module,
}

impl ModuleTree {
    /// Every module with its dotted path, parents first, as torch's `named_modules()`; the root's path is empty.
    pub fn named_modules(&self) -> Vec<(String, &Module)> {
        let mut out = Vec::new();
        self.root.walk("", &mut out);
        out
    }

    /// Every parameter once, as torch's `named_parameters()`: a tied one under its first name only.
    pub fn named_parameters(&self) -> Vec<(String, &ParameterShape)> {
        let mut all = self.all_parameters();
        all.retain(|(_, parameter)| parameter.tied_to.is_none());
        all
    }

    /// Elements of all parameters but the weights of embeddings, as Transformers' `num_parameters(exclude_embeddings=True)`:
    /// a head that is tied to them is left out too, a learnt position is an embedding.
    pub fn num_parameters_without_embeddings(&self) -> u64 {
        let modules = self.named_modules();
        let counted = modules
            .iter()
            .filter(|(_, module)| !matches!(module.layer, Layer::Embedding { .. }));
        let parameters = counted.flat_map(|(_, module)| &module.parameters);
        let own = parameters.filter(|parameter| parameter.tied_to.is_none());
        own.map(ParameterShape::count).sum()
    }

    /// Every parameter under every name, as torch's `state_dict()` lists them.
    pub fn all_parameters(&self) -> Vec<(String, &ParameterShape)> {
        let modules = self.named_modules();
        let named = modules.into_iter().flat_map(|(path, module)| {
            let own = module.parameters.iter();
            own.map(move |parameter| (join(&path, &parameter.name), parameter))
        });
        named.collect()
    }

    /// The module at a dotted path.
    pub fn find(&self, path: &str) -> Option<&Module> {
        let mut steps = path.split('.').filter(|step| !step.is_empty());
        steps.try_fold(&self.root, |module, step| module.child(step))
    }

    /// The module at a dotted path, to be replaced or changed.
    pub fn find_mut(&mut self, path: &str) -> Option<&mut Module> {
        let mut steps = path.split('.').filter(|step| !step.is_empty());
        steps.try_fold(&mut self.root, |module, step| {
            let found = module.children.iter_mut().find(|(own, _)| own == step);
            found.map(|(_, child)| child)
        })
    }
}

/// `print(model)`.
impl fmt::Display for ModuleTree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.root, f)
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        return name.to_owned();
    }
    format!("{path}.{name}")
}

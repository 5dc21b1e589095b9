//! A refresh is native only where it is proven that WordPress would have done the same.

mod rows;
mod site;

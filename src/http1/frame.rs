//! A part of a body: data or trailers. hyper's `Frame` cannot keep how the trailers were spelled.

use bytes::Bytes;
use http::HeaderMap;

use super::original::Original;

/// A part of a body.
pub enum Frame {
    Data(Bytes),
    Trailers(Box<Trailers>),
}

/// The fields after a body.
pub struct Trailers {
    pub headers: HeaderMap,
    /// Their original spelling; `None` in HTTP/2.
    pub(super) original: Option<Original>,
}

impl Frame {
    pub fn data(data: Bytes) -> Frame {
        Frame::Data(data)
    }

    pub fn data_ref(&self) -> Option<&Bytes> {
        match self {
            Frame::Data(data) => Some(data),
            Frame::Trailers(_) => None,
        }
    }

    /// # Errors
    /// It is trailers, which come back.
    pub fn into_data(self) -> Result<Bytes, Frame> {
        match self {
            Frame::Data(data) => Ok(data),
            trailers @ Frame::Trailers(_) => Err(trailers),
        }
    }

    pub fn trailers_ref(&self) -> Option<&HeaderMap> {
        match self {
            Frame::Data(_) => None,
            Frame::Trailers(trailers) => Some(&trailers.headers),
        }
    }

    pub fn trailers_mut(&mut self) -> Option<&mut HeaderMap> {
        match self {
            Frame::Data(_) => None,
            Frame::Trailers(trailers) => Some(&mut trailers.headers),
        }
    }
}

impl From<hyper::body::Frame<Bytes>> for Frame {
    fn from(frame: hyper::body::Frame<Bytes>) -> Frame {
        match frame.into_data() {
            Ok(data) => Frame::Data(data),
            // There is no third kind.
            Err(frame) => {
                let headers = frame.into_trailers().unwrap_or_default();
                Frame::Trailers(Box::new(Trailers { headers, original: None }))
            }
        }
    }
}

impl From<Frame> for hyper::body::Frame<Bytes> {
    fn from(frame: Frame) -> Self {
        match frame {
            Frame::Data(data) => hyper::body::Frame::data(data),
            Frame::Trailers(trailers) => hyper::body::Frame::trailers(trailers.headers),
        }
    }
}

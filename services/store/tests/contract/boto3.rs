//! boto3 as an independent client: its default checksums (CRC in an `aws-chunked` trailer), its
//! listing with `encoding-type=url`, its presigned URLs.

use std::process::Stdio;

use tokio::io::AsyncWriteExt as _;

use crate::peers::{Peer, tool};

const SCRIPT: &str = r#"
import boto3, botocore.config, botocore.exceptions, hashlib, io, json, os, sys, urllib.request
a = json.load(sys.stdin)
def client(secret):
    return boto3.client('s3', endpoint_url=a['url'], region_name=a['region'],
        aws_access_key_id=a['id'], aws_secret_access_key=secret,
        config=botocore.config.Config(signature_version='s3v4', s3={'addressing_style': 'path'},
            retries={'max_attempts': 1}))
s3 = client(a['secret'])
body = os.urandom(3_000_001)

def fails(code, call):
    try:
        call()
    except botocore.exceptions.ClientError as error:
        assert error.response['Error']['Code'] == code, error.response
    else:
        raise AssertionError('no ' + code)

# Default checksum, then each of the others, then MD5 is gone from boto3 and tested by header.
s3.put_object(Bucket='hot-in', Key='a b/ü.mp4', Body=body, ContentType='video/mp4',
    Metadata={'job': '0192'})
got = s3.get_object(Bucket='hot-in', Key='a b/ü.mp4')
assert got['Body'].read() == body and got['ContentType'] == 'video/mp4'
assert got['Metadata'] == {'job': '0192'} and got['ContentLength'] == len(body)
for algorithm in ['CRC32', 'SHA1', 'SHA256']:
    s3.put_object(Bucket='hot-in', Key='sum/' + algorithm, Body=body, ChecksumAlgorithm=algorithm)
    s3.put_object(Bucket='hot-in', Key='stream/' + algorithm, Body=io.BytesIO(body),
        ChecksumAlgorithm=algorithm)
head = s3.head_object(Bucket='hot-in', Key='sum/CRC32', ChecksumMode='ENABLED')
import base64
assert base64.b64decode(head['ChecksumSHA256']) == hashlib.sha256(body).digest(), head
fails('BadDigest', lambda: s3.put_object(Bucket='hot-in', Key='bad', Body=b'x', ChecksumCRC32='AAAAAA=='))
fails('BadDigest', lambda: s3.put_object(Bucket='hot-in', Key='bad', Body=b'x',
    ContentMD5='AAAAAAAAAAAAAAAAAAAAAA=='))
fails('404', lambda: s3.head_object(Bucket='hot-in', Key='bad'))
s3.put_object(Bucket='hot-in', Key='md5', Body=b'x',
    ContentMD5=base64.b64encode(hashlib.md5(b'x').digest()).decode())
assert s3.get_object(Bucket='hot-in', Key='md5', Range='bytes=0-0')['Body'].read() == b'x'

s3.put_object(Bucket='hot-in', Key='once', Body=b'1', IfNoneMatch='*')
fails('PreconditionFailed', lambda: s3.put_object(Bucket='hot-in', Key='once', Body=b'2', IfNoneMatch='*'))

pages = s3.get_paginator('list_objects_v2').paginate(Bucket='hot-in', Delimiter='/',
    PaginationConfig={'PageSize': 2})
seen = [], []
for page in pages:
    seen[0].extend(o['Key'] for o in page.get('Contents', []))
    seen[1].extend(p['Prefix'] for p in page.get('CommonPrefixes', []))
assert seen == (['md5', 'once'], ['a b/', 'stream/', 'sum/']), seen
keys = [o['Key'] for o in s3.list_objects_v2(Bucket='hot-in', Prefix='a b/')['Contents']]
assert keys == ['a b/ü.mp4'], keys

put = s3.generate_presigned_url('put_object', ExpiresIn=60, Params={'Bucket': 'hot-in',
    'Key': 'signed', 'ContentLength': 4, 'ContentType': 'video/mp4'})
urllib.request.urlopen(urllib.request.Request(put, data=b'1234', method='PUT',
    headers={'content-type': 'video/mp4'}))
get = s3.generate_presigned_url('get_object', ExpiresIn=60, Params={'Bucket': 'hot-in',
    'Key': 'signed', 'ResponseContentDisposition': 'attachment; filename="a.mp4"'})
with urllib.request.urlopen(get) as answer:
    assert answer.read() == b'1234'
    assert answer.headers['content-disposition'] == 'attachment; filename="a.mp4"'

s3.delete_objects(Bucket='hot-in', Delete={'Objects': [{'Key': 'md5'}, {'Key': 'never'}]})
fails('404', lambda: s3.head_object(Bucket='hot-in', Key='md5'))
s3.head_bucket(Bucket='hot-in')
s3.create_bucket(Bucket='hot-new')
fails('BucketAlreadyOwnedByYou', lambda: s3.create_bucket(Bucket='hot-new'))
s3.put_object(Bucket='hot-new', Key='a', Body=b'')
assert s3.get_object(Bucket='hot-new', Key='a')['Body'].read() == b''
fails('AccessDenied', lambda: s3.create_bucket(Bucket='not-granted'))
fails('NotImplemented', lambda: s3.list_buckets())
fails('NotImplemented', lambda: s3.copy_object(Bucket='hot-in', Key='c', CopySource='hot-in/signed'))
fails('NotImplemented', lambda: s3.create_multipart_upload(Bucket='hot-in', Key='c'))
fails('NotImplemented', lambda: s3.get_bucket_acl(Bucket='hot-in'))
fails('SignatureDoesNotMatch', lambda: client('wrong' * 5).get_object(Bucket='hot-in', Key='signed'))
print('done')
"#;

#[tokio::test]
async fn boto3_round_trip() {
    let peer = Peer::in_process().await;
    let python = tool("HOTCELL_TEST_PYTHON", "python");
    let mut child = tokio::process::Command::new(&python)
        .args(["-c", SCRIPT])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap_or_else(|e| {
            panic!("{python}: {e}; install tools/requirements-test.txt or set HOTCELL_TEST_PYTHON")
        });
    let input = serde_json::json!({ "url": peer.url, "region": peer.region, "id": peer.id,
        "secret": peer.secret });
    child.stdin.take().unwrap().write_all(input.to_string().as_bytes()).await.unwrap();
    let output = child.wait_with_output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("done"), "{}", String::from_utf8_lossy(&output.stderr));
}
